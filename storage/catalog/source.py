"""The relations behind the views, in the schema `source`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One relation of the schema `source`: a table in memory, or the rows of Parquet files (`files` in index order)."""

    name: str
    schema: pa.Schema
    table: pa.Table | None = None
    files: tuple[Path, ...] = ()


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as the table of a source."""
    return pa.Table.from_pylist(list(rows), schema=schema)
