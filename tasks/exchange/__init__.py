"""SAEs and removals that enter or leave a workspace.

interchange.py  import, find and export SAEs
bake.py         a removal folded into a pipeline's folder
benchmark.py    test images under the names of UnlearnCanvas
cards.py        facts for the card of a published SAE or removal
"""
