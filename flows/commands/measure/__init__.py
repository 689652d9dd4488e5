"""Commands that measure removals and models.

audit.py          `audit`
bench.py          `bench`
compare.py        `compare`
hookpoints.py     `hookpoints`
unlearncanvas.py  `unlearncanvas`, `unlearncanvas convert | export`
"""
