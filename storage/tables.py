"""The small tables: which views each stage has that ships, and Parquet of a given schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.declared import Column, View
from storage.errors import BadTable
from storage.parquet import read_parquet, read_schema, write_parquet
from storage.views.common import DOMAIN, HALF, HOOKPOINT, SPLIT
from storage.views.figures import (
    COMPARISONS,
    CONFUSION,
    DAMAGE,
    EVALUATIONS,
    LEFT_OUT,
    METRICS,
    QUALITY,
    SECOND_OPINIONS,
    SEQUENCES,
)
from storage.views.inputs import CAPTURES, DESCRIPTIONS, DICTIONARY, EXPLANATIONS, PROMPTS, PROOFS, SAES
from storage.views.inspection import ATTRIBUTIONS, HEAD_LATENTS, HEADS, OOD, PAIRS, PREVALENCE, RELATIVES, STEERING
from storage.views.pictures import DETECTIONS, IMAGES, JUDGEMENTS, PICTURES
from storage.views.removals import ATTACKS, GRID, REMOVAL_LATENTS

if TYPE_CHECKING:
    import pyarrow.compute as pc

__all__ = [
    "ATTACKS",
    "ATTRIBUTIONS",
    "CAPTURES",
    "COMPARISONS",
    "CONFUSION",
    "DAMAGE",
    "DESCRIPTIONS",
    "DETECTIONS",
    "DICTIONARY",
    "DOMAIN",
    "EVALUATIONS",
    "EXPLANATIONS",
    "GRID",
    "HALF",
    "HEADS",
    "HEAD_LATENTS",
    "HISTORY",
    "HOOKPOINT",
    "IMAGES",
    "JUDGEMENTS",
    "LEFT_OUT",
    "METRICS",
    "OOD",
    "PAIRS",
    "PICTURES",
    "PREVALENCE",
    "PROMPTS",
    "PROOFS",
    "QUALITY",
    "RELATIVES",
    "REMOVAL_LATENTS",
    "SAES",
    "SECOND_OPINIONS",
    "SEQUENCES",
    "SHIPPED",
    "SPLIT",
    "STEERING",
    "check_file",
    "read_table",
    "schema",
    "table",
    "write_table",
]

_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
    "MAP(VARCHAR, VARCHAR)": pa.map_(pa.string(), pa.string()),
}
SHIPPED: dict[str, tuple[View, ...]] = {
    "prompts": (PROMPTS,),
    "capture": (CAPTURES,),
    "sae": (SAES,),
    "removal": (REMOVAL_LATENTS, GRID),
    "images": (IMAGES,),
    "judgements": (JUDGEMENTS, DETECTIONS),
    "evaluation": (METRICS, EVALUATIONS, DAMAGE, CONFUSION, QUALITY),
    "pictures": (PICTURES,),
    "comparison": (COMPARISONS,),
    "sequence": (SEQUENCES,),
    "leave_out": (LEFT_OUT,),
    "second_opinion": (SECOND_OPINIONS,),
    "audit": (ATTACKS,),
    "proof": (DICTIONARY,),
    "proof_test": (PROOFS,),
    "explanation": (EXPLANATIONS,),
    "description": (DESCRIPTIONS,),
    "locate": (HEADS,),
    "attribution": (ATTRIBUTIONS, HEAD_LATENTS),
    "relatives": (RELATIVES,),
    "steering": (STEERING,),
    "blindspots": (PREVALENCE, PAIRS, OOD),
}
"""{stage: its views}, of the stages that ship; every workspace has them, empty where nothing was made."""

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


def schema(columns: Iterable[Column]) -> pa.Schema:
    """Columns as Arrow's schema; `view.columns` are those of a view's Parquet file."""
    return pa.schema([(column.name, _TYPES[column.type]) for column in columns])


def check_file(folder: Path, view: View) -> None:
    """Raise BadTable unless the file of a view in an artifact's folder has the columns that the view declares.

    Raises ArtifactMissing or ArtifactDamaged if there is no such Parquet file.
    """
    if view.file and not (found := read_schema(folder / view.file)).equals(schema(view.columns)):
        raise BadTable(
            f"{folder / view.file} has the columns {_shown(found)}; the view {view.name!r} declares "
            f"{_shown(schema(view.columns))}: write it with storage.tables.table(rows, view)."
        )


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def table(rows: Iterable[Mapping[str, Any]], columns: pa.Schema | View) -> pa.Table:
    """Rows as a table of a schema, or of the file of a view. Maps are sorted by key: equal rows, equal bytes.

    Raises ValueError for a row that lacks a column (write None where there is no value) or has one too many.
    """
    wanted = schema(columns.columns) if isinstance(columns, View) else columns
    maps = [field.name for field in wanted if pa.types.is_map(field.type)]
    out = []
    for index, row in enumerate(rows):
        if row.keys() != set(wanted.names):
            odd = sorted(row.keys() ^ set(wanted.names))
            raise ValueError(f"row {index} differs from the schema in {odd}: expected the columns {wanted.names}")
        out.append({**row, **{name: sorted(row[name].items()) for name in maps if row[name] is not None}})
    return pa.Table.from_pylist(out, schema=wanted)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, all or nothing; equal tables, equal bytes. Raises DiskFull."""
    write_parquet(path, table)


def read_table(path: Path, where: pc.Expression | None = None) -> pa.Table:
    """The table in a file, or the rows of it that fulfil a condition. Raises ArtifactMissing or ArtifactDamaged."""
    return read_parquet(path, where=where)
