"""Methods that change weights while a removal is attached, and restore them bit for bit.

part.py           what is added to a weight: a low-rank change, or a map of what the weight reads
linear_map.py     the moments of text states that the closed-form edits are computed from
uce.py            UCE (2308.14761): cross-attention reads the concept's words as others
procrustes.py     the same by a rotation
"""
