"""Flows that measure many removals, and what is printed of them.

sequence.py  concepts removed one after another
"""
