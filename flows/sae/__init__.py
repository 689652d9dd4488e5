"""SAEs of a workspace: what is said of them, and how they are measured.

text.py     text of the `sae` commands
report.py   flow and text of `sae report`
prove.py    flow and text of `sae prove`
explain.py  flow and text of `sae explain`
describe.py  `sae explain --export | --import`
"""
