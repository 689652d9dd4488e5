"""Flows that measure many removals, and what is printed of them.

leave_out.py  concepts that the SAE never saw
sequence.py   concepts removed one after another
"""
