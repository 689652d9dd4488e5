"""Statistics of concepts on the latents of an SAE, as mergeable sums.

sums.py    sums of one concept per (timestep, latent)
totals.py  sums of a domain
packs.py   many concepts in one file, ordered by latent
"""
