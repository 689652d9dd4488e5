"""Parquet that is atomic, and the same bytes for the same table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import atomic_path

if TYPE_CHECKING:
    import pyarrow.compute as pc

ROW_GROUP = 102_400
"""Rows of a row group: small enough that one timestep is found by its bounds, large enough to compress."""


def write_parquet(
    path: Path, table: pa.Table, encodings: dict[str, str] | None = None, row_group: int = ROW_GROUP
) -> None:
    """Write a table with zstd, all or nothing. `encodings` names the encoding of columns; the others get a dictionary.

    Raises DiskFull.
    """
    with parquet_writer(path, table.schema, encodings or {}) as writer:
        writer.write_table(table, row_group_size=row_group)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, encodings: dict[str, str]) -> Iterator[pq.ParquetWriter]:
    """Like `write_parquet`, for a table that comes in parts; the file appears when the block ends without an error."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema.remove_metadata(),
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in encodings],
            column_encoding=encodings or None,
        ) as writer,
    ):
        yield writer


def read_parquet(path: Path, columns: list[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """The table in a file. Raises ArtifactMissing if there is none, ArtifactDamaged if it is not Parquet.

    Args:
        columns: those that are read; None: all.
        where: a condition on rows; row groups whose bounds exclude it are not read.
    """
    if not path.exists():
        raise ArtifactMissing(path, "a Parquet file")
    try:
        return pq.read_table(path, columns=columns, filters=where, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactDamaged(path, "a Parquet file", str(error).splitlines()[0]) from None


def read_schema(path: Path) -> pa.Schema:
    """The schema of a file. Raises as `read_parquet`."""
    if not path.exists():
        raise ArtifactMissing(path, "a Parquet file")
    try:
        return pq.read_schema(path).remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactDamaged(path, "a Parquet file", str(error).splitlines()[0]) from None
