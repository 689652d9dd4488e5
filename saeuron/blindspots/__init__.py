"""Comparison of generated with real pictures: drawn too rarely or too often, copied, unlike any of them.

features.py    what a vision model sees in a picture: rows at positions
real.py        real pictures: rendered, or of a folder with captions
samples.py     which real pictures and prompts are compared
dictionary.py  latents of such rows (RA-SAE), and their strength in a picture
naming.py      a rule in words for each latent, from labels or captions
prevalence.py  how often latents are real and generated: shares, intervals, verdicts (2506.19708)
pairs.py       how far a generated picture is from real ones: copies
unusual.py     how far a picture is from what its kind looks like: out of distribution
sheet.py       real pictures beside generated ones, as a picture
"""
