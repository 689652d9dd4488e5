"""Measurements over many removals, beside a run's own.

leave_out.py  concepts that the SAE never saw
sequence.py   concepts removed one after another and at once
"""
