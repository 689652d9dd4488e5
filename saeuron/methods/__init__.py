"""Ways to remove a concept.

saeuron.py  SAeUron's edit of an SAE's latents (2501.18052), and `Removal`
"""
