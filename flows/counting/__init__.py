"""The cost of a run, counted before any weights are loaded.

amounts.py  images, bytes, FLOP and memory of each artifact that would be made
page.py     the same as a table by stage, and where the hours come from
"""
