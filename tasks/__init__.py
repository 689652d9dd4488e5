"""One retryable, cached task per file: open storage, call the library, commit, return an id.

prompts.py     write the prompt set
capture.py     activation shards of a hookpoint
train.py       the SAE of a hookpoint
fit.py         the training itself, in one process or several
score.py       statistics of a concept
totals.py      sums of a domain
packs.py       statistics of several concepts in one file, ordered by latent
trials.py      candidates for a removal, and validation images with each
tune.py        the removal of a concept: the best of its trials
images.py      test images
judge.py       what judges see on them
evaluate.py    metrics of a removal
compare.py     a method against a control, on the same test images; all side by side, with costs
report.py      contact sheet and score plot of a removal
generate.py    one prompt with and without removals
bench.py       what a benchmark measures
audit.py       an attack on a removal
stages.py      every stage, and how one from elsewhere is added
sae/           measure an SAE
inspection/    look into a model
measure/       measure many removals together
explore/       read a workspace for people: what the report and the explorer show
engine/        how a task runs: cache, locks, workers, progress
registry/      what a workspace remembers: runs, concepts, which SAE
exchange/      SAEs and removals that enter or leave a workspace
"""

import saeuron  # noqa: F401  Before any task imports torch: it sets how torch's threads wait.
