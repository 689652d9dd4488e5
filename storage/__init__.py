"""Bytes: shards, manifests, Parquet, the catalog and its SQL. Knows no model, no tensor library, no orchestrator.

    workspace.py    the folder that holds everything, its artifacts, manifests and locks
    shards.py       dense samples in WebDataset tars; activations.py reads them as shuffled rows, past
                    the page cache (direct.py) where they outgrow it
    statistics.py   mergeable sums of one (concept, SAE); tables.py the small Parquet tables
    totals.py       sums over the concepts of a domain; features.py the sums of many concepts, feature by feature
    catalog.py      `connect(workspace)`: a DuckDB connection with one view per kind of thing (views.sql, columns.py)
    query.py        SQL from people: one SELECT, limited in time, memory and reach

Every artifact is complete or absent: files first, the manifest last, each by write, fsync, rename.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.catalog import connect
    from storage.workspace import Workspace

__all__ = ["Workspace", "connect"]


def __getattr__(name: str) -> Any:
    # Lazy: `import storage` costs no DuckDB, so that a command line can show its help at once.
    if name == "connect":
        from storage.catalog import connect

        return connect
    if name == "Workspace":
        from storage.workspace import Workspace

        return Workspace
    raise AttributeError(f"module 'storage' has no attribute {name!r}")
