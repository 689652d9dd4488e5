"""Read a workspace for people: what the report and the explorer show, as records of `saeuron.pages`.

shelf.py       a workspace as it is now: manifests, tables, pictures
removals.py    everything known of one removal that was evaluated
latents.py     scores of latents for a concept, and latents as the page of an SAE shows them
inspected.py   words and heads that a latent fires by, and what steering it does
saes.py        an SAE beside the others of its hookpoint, and what its latents name
concepts.py    every concept: how far it is, its figures, a picture
history.py     runs: what each made, and what that cost
trying.py      one prompt with latents and removals turned by hand
looking.py     which latents fire on a picture that is brought
studio.py      a queue for such pictures
run_report.py  the report of a run, or of a concept's removals
check.py       judge stored images again, and compare the figures
"""
