"""Totals: sums over the concepts of one domain, so that a score need not read the statistics of all of them.

    totals.parquet   timestep, latent, sum_fixed (over all concepts, 2^-24), mean_fixed (of means, 2^-36)
    cells.parquet    score_id, timestep, n_rows, n_images, mass: the cells of every concept

Both sums are integers, so a concept can be added or subtracted, with the same bits as a sum from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import ArtifactDamaged
from storage.parquet import read_parquet, write_parquet
from storage.statistics.sums import CELLS_FILE, CELLS_SCHEMA, STEP_ROWS, Counts

MEAN_UNIT = 2**36
"""Units of mean_fixed in 1.0."""
TOTALS_FILE = "totals.parquet"
TOTALS_SCHEMA = pa.schema(
    [("timestep", pa.int32()), ("latent", pa.uint32()), ("sum_fixed", pa.int64()), ("mean_fixed", pa.int64())]
)
MEMBER_CELLS_SCHEMA = pa.schema([("score_id", pa.string()), *CELLS_SCHEMA])
_ENCODINGS = {
    "timestep": "DELTA_BINARY_PACKED",
    "latent": "DELTA_BINARY_PACKED",
    "sum_fixed": "BYTE_STREAM_SPLIT",
    "mean_fixed": "BYTE_STREAM_SPLIT",
}


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over the concepts of a domain."""

    timesteps: NDArray[np.int32]
    """[T] ascending."""
    sum_fixed: NDArray[np.int64]
    """[T, N], in 2^-24."""
    mean_fixed: NDArray[np.int64]
    """[T, N], the sum of the concepts' means, each rounded to 2^-36."""
    cells: pa.Table
    """The table of `cells.parquet`; T rows per concept."""


def member_cells(score_id: str, counts: Counts) -> pa.Table:
    """The cells of one concept, as in `Totals.cells`."""
    columns = {
        "score_id": [score_id] * len(counts.timesteps),
        "timestep": counts.timesteps,
        "n_rows": counts.n_rows,
        "n_images": counts.n_images,
        "mass": counts.mass,
    }
    return pa.table(columns, MEMBER_CELLS_SCHEMA)


def write_totals(folder: Path, totals: Totals) -> None:
    """Write both files. Equal totals give equal bytes, whatever the order of addition. Raises DiskFull."""
    count, width = totals.sum_fixed.shape
    rows = {
        "timestep": np.repeat(totals.timesteps, width),
        "latent": np.tile(np.arange(width, dtype=np.uint32), count),
        "sum_fixed": totals.sum_fixed.ravel(),
        "mean_fixed": totals.mean_fixed.ravel(),
    }
    table = pa.table(rows, TOTALS_SCHEMA)
    write_parquet(folder / TOTALS_FILE, table, _ENCODINGS, width * max(1, STEP_ROWS // width))
    cells = totals.cells.sort_by([("score_id", "ascending"), ("timestep", "ascending")]).combine_chunks()
    write_parquet(folder / CELLS_FILE, cells)


def read_totals(folder: Path) -> Totals:
    """Read the totals of `write_totals`. Raises ArtifactMissing or ArtifactDamaged."""
    cells, table = read_parquet(folder / CELLS_FILE), read_parquet(folder / TOTALS_FILE)
    for name, found, schema in ((TOTALS_FILE, table, TOTALS_SCHEMA), (CELLS_FILE, cells, MEMBER_CELLS_SCHEMA)):
        if not found.schema.equals(schema):
            raise ArtifactDamaged(folder / name, f"columns {schema.names}", f"{found.schema.names}")
    timesteps = np.unique(cells["timestep"].to_numpy())
    count = len(timesteps)
    if count == 0 or table.num_rows % count:
        raise ArtifactDamaged(folder / TOTALS_FILE, f"a multiple of {count} timesteps", f"{table.num_rows} rows")
    sums = {name: table[name].to_numpy().reshape(count, -1) for name in ("sum_fixed", "mean_fixed")}
    return Totals(timesteps, **sums, cells=cells)
