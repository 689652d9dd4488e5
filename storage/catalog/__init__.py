"""SQL over a workspace.

connection.py  `connect(workspace)`: DuckDB with one view per kind of thing
views.sql      the views
columns.py     every column: type, unit, meaning
declared.py    views that stages declare, from storage/tables.py and from manifests
everything.py  all relations behind the views
source.py      a relation behind views
tables.py      relations from manifests and small Parquet tables
scores.py      relations of statistics, totals and packs
diagnosis.py   relations of `sae report`
query.py       SQL from users: one SELECT, limited in time, memory and reach
answer.py      the protocol between query.py and guard.py
guard.py       the SQL that is allowed, and the process that runs it
words.py       why a query has no answer, in one line
"""
