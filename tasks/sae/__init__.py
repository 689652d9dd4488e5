"""Measure an SAE of a workspace.

report.py   on held-out images, and how similar it is to another SAE
page.py     its HTML page, and the sheet of one latent
proof_tests.py  tests beside dictionaries made from labels
proof_fits.py  those that train SAEs: occlusion and widths
prove.py    how well single latents name concepts, beside controls
explain.py  what each latent fires on, as a rule in words
describe.py  descriptions that others wrote, judged
thresholds.py  thresholds in place of per-row TopK
"""
