"""SAEs and removals that enter or leave a workspace.

interchange.py  import, find and export SAEs
cards.py        facts for the card of a published SAE or removal
"""
