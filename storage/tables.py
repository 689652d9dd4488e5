"""The small tables, as Parquet: prompts, images, judgements, metrics and the training curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.parquet import read_parquet, write_parquet

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("concepts", pa.map_(pa.string(), pa.string())),  # domain -> concept
    ]
)
IMAGES = pa.schema(
    [
        ("image_set", pa.string()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        ("split", pa.string()),
        ("asked", pa.map_(pa.string(), pa.string())),  # domain -> concept that the prompt asks for
        ("removals", pa.list_(pa.string())),
    ]
)
JUDGEMENTS = pa.schema(
    [
        ("image_set_id", pa.string()),
        ("key", pa.string()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        ("domain", pa.string()),
        ("asked", pa.string()),  # concept of the domain that the prompt asks for, or null
        ("judge", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
    ]
)
METRICS = pa.schema(
    [
        ("evaluation_id", pa.string()),
        ("domain", pa.string()),
        ("concept", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("unedited", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("unedited_low", pa.float64()),
        ("unedited_high", pa.float64()),
        ("n_images", pa.int64()),
        ("n_prompts", pa.int64()),
        ("seeds", pa.int32()),
        ("image_set", pa.string()),
        ("split", pa.string()),
        ("removal_id", pa.string()),
        ("n", pa.int32()),
        ("gamma", pa.float64()),
    ]
)
HISTORY = pa.schema(
    [
        ("step", pa.int64()),
        ("rows", pa.int64()),
        ("fvu", pa.float64()),
        ("l0", pa.float64()),
        ("dead", pa.float64()),
        ("loss", pa.float64()),
    ]
)


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`. Maps are sorted by key, so that equal rows are equal bytes.

    Raises ValueError for a row that lacks a column (write None where there is no value) or has one too many.
    """
    maps = [field.name for field in schema if pa.types.is_map(field.type)]
    out = []
    for index, row in enumerate(rows):
        if row.keys() != set(schema.names):
            odd = sorted(row.keys() ^ set(schema.names))
            raise ValueError(f"row {index} differs from the schema in {odd}: expected the columns {schema.names}")
        out.append({**row, **{name: sorted(row[name].items()) for name in maps if row[name] is not None}})
    return pa.Table.from_pylist(out, schema=schema)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, all or nothing; equal tables, equal bytes. Raises DiskFull."""
    write_parquet(path, table)


def read_table(path: Path) -> pa.Table:
    """The table in a file. Raises ArtifactMissing or ArtifactDamaged."""
    return read_parquet(path)
