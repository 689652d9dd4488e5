"""SQL over a workspace.

connection.py  `connect(workspace)`: DuckDB with one view per kind of thing
views.sql      the views
columns.py     every column: type, unit, meaning
declared.py    views that stages declare, from storage/tables.py and from manifests
everything.py  all that the views stand on
source.py      the relations that views stand on
tables.py      relations from manifests and small Parquet tables
scores.py      relations of statistics, totals and packs
diagnosis.py   relations of `sae report`
query.py       SQL from users: one SELECT, limited in time, memory and reach
answer.py      what both of these agree on
guard.py       which SQL is let through, and the process that runs it
"""
