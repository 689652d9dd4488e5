"""Flows that measure many removals, and what is printed of them.

leave_out.py  concepts that the SAE never saw
second.py     finished evaluations judged again by another judge
sequence.py   concepts removed one after another
"""
