"""Methods that change weights while a removal is attached, and restore them bit for bit.

part.py           a low-rank change of a weight, or a map of its input
linear_map.py     the moments of text states that the closed-form edits are computed from
uce.py            UCE (2308.14761): cross-attention reads the concept's words as others
procrustes.py     the same by a rotation
training.py       low-rank terms of linear layers, trained by gradients
text_redirect.py  train the text encoder's first layer to read the concept's words as others
esd.py            ESD-x (2303.07345): train keys and values away from the concept's prompts
"""
