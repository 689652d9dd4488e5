"""One ordering function per stage: which jobs it has, and what each needs first.

prompts.py    prompt sets of the run and of concepts added later
capture.py    activation shards, one pass for all hookpoints
train.py      one SAE per hookpoint
score.py      statistics of every concept
totals.py     sums per domain, and packs by latent
calibrate.py  how good the judges are, before they judge a removal
tune.py       the removal of every wanted concept
judge.py      what judges see on a set of images
evaluate.py   test images, metrics and pictures
compare.py    the controls of a run, and how methods compare with them
"""
