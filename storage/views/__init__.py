"""The views of one file or summary, of the stages that ship, as data; `storage/tables.py` says which stage has which.

inputs.py      what removals are made from: prompts, captures, SAEs
removals.py    removals, and attacks on them
pictures.py    pictures, and what judges say of each
figures.py     the figures of removals
inspection.py  what is found by looking into a model
common.py      columns that several views share
"""
