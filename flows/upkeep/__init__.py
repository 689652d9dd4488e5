"""Keep a workspace, and what it needs, in order.

verify.py   find damage, set it aside, say what makes it again
doctor.py   what is here: versions, devices, room, cached models
gc.py       find and delete what nothing refers to
diff.py     compare two runs
refresh.py  find outdated removals, and report what a refresh changed
"""
