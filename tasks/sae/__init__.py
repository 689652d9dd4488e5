"""Measure an SAE of a workspace.

report.py       figures on held-out images, and similarity to another SAE
page.py         its HTML page, and the sheet of one latent
proof_tests.py  tests beside dictionaries made from labels
proof_fits.py   tests that train SAEs: occlusion and width
prove.py        how well single latents name concepts, beside controls
naming.py       what a proof says of single latents, for pages and the terminal
explain.py      what each latent fires on, as a rule in words
describe.py     judge descriptions written by people or language models
thresholds.py   replace per-row TopK by thresholds
"""
