"""Sparse autoencoders: inference, training, exchange with other libraries, diagnosis.

autoencoder.py     the SAE at inference: one flat class
selection.py       activation functions, and the exact selections behind them
thresholds.py      thresholds in place of per-row TopK
config.py          the configuration of an SAE and its training
training.py        train one SAE on a stream of rows, with exact resume
labels.py          which concepts the images of rows ask for
streams.py         rows on their way from storage to training
losses.py          loss terms and formulas that variants share
sparse.py          products with sparse codes
update.py          one optimizer step: project, clip, Adam, constraints
ranks.py           several processes that train one SAE
triton_kernels.py  the sparse work of a training step in Triton
moments.py         FVU and L0 from mergeable sums
pursuit.py         gradient pursuit: codes by search instead of an encoder
variants/          one file per SAE variant
interchange/       folders of SAeUron, sparsify and SAELens
diagnosis/         what an SAE keeps and loses on held-out images
proofs/            tests beside dictionaries made from labels
"""
