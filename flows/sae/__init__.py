"""SAEs of a workspace: what is said of them, and how they are measured.

text.py     text of the `sae` commands
report.py   flow and text of `sae report`
prove.py    flow and text of `sae prove`
proof_tests.py  its tests beside dictionaries made from labels
controls.py  SAEs that differ in their dictionary alone
explain.py  flow and text of `sae explain`
given.py     SAEs that a configuration names by where they lie
describe.py  `sae explain --export | --import`
"""
