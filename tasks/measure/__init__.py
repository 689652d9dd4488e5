"""Measurements over many removals, beside a run's own.

leave_out.py  concepts that the SAE never saw
second.py     the figures of a removal by a second judge
sequence.py   concepts removed one after another and at once
"""
