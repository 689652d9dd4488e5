"""One function per stage, which says what jobs the stage has and what each needs first.

prompts.py    prompt sets of the run and of concepts added later
capture.py    activation shards, one pass for all hookpoints
train.py      one SAE per hookpoint
score.py      statistics of every concept
totals.py     sums per domain, and packs by latent
calibrate.py  accuracy of the judges on unedited images
tune.py       the removal of every wanted concept
judge.py      judgements of a set of images
evaluate.py   test images, metrics and pictures
compare.py    the controls of a run, and how methods compare with them
"""
