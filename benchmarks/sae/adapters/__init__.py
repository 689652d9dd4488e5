"""One adapter a library: each trains a TopK SAE with that library's own trainer, in that library's own environment.

protocol.py             how an adapter is talked to
bare.py                 imports without what a package's own `__init__` drags in
ours.py                 this project
eai_sparsify.py         eai-sparsify
sae_lens.py             sae-lens
overcomplete.py         overcomplete
dictionary_learning.py  dictionary-learning
limit.py                the one product that no step can do without
"""
