"""The commands of `saeuron`, one file each.

concept_new.py    `concept new`
concept.py        `concept list | show | add | drop | refresh | relatives`
deploy.py         `deploy`
diff.py           `diff`
doctor.py         `doctor`
explore.py        `explore`
gc.py             `gc`
generate.py       `generate`
options.py        options that several commands share, and what their groups have in common
removal.py        `removal export | bake`
report.py         `report`
run.py            `run`, `evaluate` and `remove`
runs.py           `runs`, `sae list` and `removal list`
sae.py            `sae import | export | info`
sae_report.py     `sae report | prove | explain` and `latent show`
sql.py            `sql`
status.py         `status`
verify.py         `verify`
measure/          commands that measure removals and models
"""
