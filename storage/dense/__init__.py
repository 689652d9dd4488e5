"""Dense arrays: activations and images in WebDataset shards.

shards.py       WebDataset tars with a sidecar manifest
activations.py  activations in shards, read back as shuffled rows
direct.py       large reads that bypass the page cache
"""
