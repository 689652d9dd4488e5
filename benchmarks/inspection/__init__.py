"""Where a model holds a concept, and what latents say.

hookpoints.py   what a hookpoint carries: its output swapped
locating.py     heads that carry a concept: patching, codes
module_sets.py  sets of cross-attentions, patched and swapped
explaining.py   explanations of latents on new images
steering.py     success of steering against confidence
words.py        words by which latents of a cross-attention fire; removals at its z
"""
