"""Bytes: shards, manifests, Parquet, the catalog and its SQL. Knows no model, no tensor library, no orchestrator.

    workspace.py    the folder that holds everything: open it, commit and read artifacts, hold locks
    layout.py       the names of its files and folders
    backend.py      where it keeps them: a folder of this machine, or (remote/) an object store
    manifests.py    the manifest of an artifact; written last, it is the commit point
    identity.py     artifact ids: a hash of what an artifact is made from
    files.py        files that are whole or absent
    seals.py        JSON and HTML that carry their own hash
    locks.py        locks that a dead process cannot hold
    verify.py       find damage, and move it out of the way
    published.py    removals where people look for them, and which artifact each copies
    migrations.py   from an older workspace format to this one
    parquet.py      atomic Parquet with reproducible bytes
    text.py         tables as plain text that fits the terminal
    declared.py     what a stage declares: views and columns
    tables.py       the small tables: the views of each stage, schemas
    errors.py       what can go wrong
    dense/          activations and images in WebDataset shards
    statistics/     mergeable sums of concepts, totals of domains, packs by latent
    views/          views of one file or summary, as data
    catalog/        `connect(workspace)` and SQL: the views, their columns, queries of users
    remote/         a workspace on an object store

Every artifact is complete or absent: files first, the manifest last, each by write, fsync, rename.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.catalog.connection import connect
    from storage.workspace import Workspace

__all__ = ["Workspace", "connect"]


def __getattr__(name: str) -> Any:
    # Lazy: `import storage` costs no DuckDB, so that a command line can show its help at once.
    if name == "connect":
        from storage.catalog.connection import connect

        return connect
    if name == "Workspace":
        from storage.workspace import Workspace

        return Workspace
    raise AttributeError(f"module 'storage' has no attribute {name!r}")
