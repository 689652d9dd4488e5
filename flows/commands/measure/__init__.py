"""Commands that measure removals and models.

audit.py          `audit`
bench.py          `bench`
unlearncanvas.py  `unlearncanvas`, `unlearncanvas convert`
"""
