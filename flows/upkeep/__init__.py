"""Keep a workspace in order.

verify.py   find damage, set it aside, say what makes it again
gc.py       find and delete what nothing refers to
diff.py     compare two runs
refresh.py  find outdated removals, and report what a refresh changed
"""
