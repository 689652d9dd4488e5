"""What a workspace remembers between runs.

records.py   small sealed JSON files, one pydantic model each
runs.py      runs, and the configuration that later commands use
concepts.py  concepts that were added or dropped, and reference sets
saes.py      the SAE that a name means
removals.py  the removal that a name means, and why there is none
"""
