"""Methods that change weights while a removal is attached, and restore them bit for bit.

part.py           what is added to a weight: a low-rank change, or a map of what the weight reads
linear_map.py     the moments of text states that the closed-form edits are computed from
uce.py            UCE (2308.14761): cross-attention reads the concept's words as others
procrustes.py     the same by a rotation
training.py       low-rank terms of linear layers that gradients train
text_redirect.py  the text encoder's first layer, trained so that the concept's words are read as others
esd.py            ESD-x (2303.07345): keys and values, trained away from the concept's prompts
"""
