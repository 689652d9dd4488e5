"""SAEs of a workspace: what is said of them, and how they are measured.

text.py     text of the `sae` commands
report.py   flow and text of `sae report`
prove.py    flow and text of `sae prove`
explain.py  flow and text of `sae explain`
given.py     SAEs that a configuration names by where they lie
describe.py  `sae explain --export | --import`
"""
