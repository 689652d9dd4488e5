"""Measurements over many removals, beside a run's own.

sequence.py  concepts removed one after another and at once
"""
