"""Read a workspace for people: what the report and the explorer show, as records of `saeuron.pages`.

shelf.py       a workspace as it is now: manifests, tables, pictures
removals.py    everything known of one removal that was evaluated
latents.py     scores of latents for a concept, and latents as the page of an SAE shows them
run_report.py  the report of a run, or of a concept's removals
check.py       judge stored images again, and compare the figures
"""
