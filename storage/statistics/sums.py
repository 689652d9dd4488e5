"""Statistics of one concept on the latents of one SAE: sums per (timestep, latent), which merge exactly.

Sums of activations and of their squares are integers in units of 2^-24, so that parts add to the same bits in any
order. float64 would be exact for sums of float16, but not for their squares.

    statistics.parquet   timestep, latent, fires, image_fires, sum_fixed, sumsq_fixed, max; dense, sorted
    by_latent.parquet    the same rows, with n_rows and n_images, sorted by (latent, timestep); see `packs.py`
    cells.parquet        timestep, n_rows, n_images, mass (the sum of sum_fixed over all latents)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.errors import ArtifactDamaged
from storage.parquet import ROW_GROUP, read_parquet, write_parquet

FIXED_POINT = 2**24
"""Units in 1.0."""
STATISTICS_FILE = "statistics.parquet"
BY_LATENT_FILE = "by_latent.parquet"
CELLS_FILE = "cells.parquet"
STEP_ROWS = 16_384
"""Most rows of a row group of statistics.parquet that holds several timesteps."""
GROUP_LATENTS = 512
"""Latents in a row group of by_latent.parquet."""

_DELTA, _SPLIT = "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"
# Splitting the bytes of the sums is better than deltas: 5.1 bytes a row for the whole table instead of 6.4.
_STATISTICS = {
    "timestep": (pa.int32(), _DELTA),
    "latent": (pa.uint32(), _DELTA),
    "fires": (pa.uint64(), _DELTA),
    "image_fires": (pa.uint32(), _DELTA),
    "sum_fixed": (pa.int64(), _SPLIT),
    "sumsq_fixed": (pa.int64(), _SPLIT),
    "max": (pa.float32(), _SPLIT),
}
_CELLS = {
    "timestep": (pa.int32(), _DELTA),
    "n_rows": (pa.uint64(), _DELTA),
    "n_images": (pa.uint32(), _DELTA),
    "mass": (pa.int64(), _SPLIT),
}
STATISTICS_SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _STATISTICS.items()])
BY_LATENT_SCHEMA = pa.schema([*STATISTICS_SCHEMA, ("n_rows", pa.uint64()), ("n_images", pa.uint32())])
BY_LATENT_ENCODINGS = {
    "fires": "PLAIN",
    "image_fires": "PLAIN",
    "sum_fixed": "PLAIN",
    "sumsq_fixed": _SPLIT,
    "max": "PLAIN",
}
"""Encodings of files sorted by latent; reading one latent took DuckDB 13 ms, with deltas 17 (docs/adr/0008)."""
CELLS_SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _CELLS.items()])


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the rows (one spatial position of one image at one step) of T timesteps, for N latents.

    Raises ValueError for a wrong shape or dtype, a repeated timestep, or a maximum that is NaN.
    """

    timesteps: NDArray[np.int32]
    """[T] the scheduler's timesteps."""
    fires: NDArray[np.uint64]
    """[T, N] rows where the latent is not 0."""
    image_fires: NDArray[np.uint32]
    """[T, N] images with such a row."""
    sum_fixed: NDArray[np.int64]
    """[T, N] sum of the latent, in 2^-24."""
    sumsq_fixed: NDArray[np.int64]
    """[T, N] sum of its square, in 2^-24."""
    max: NDArray[np.float32]
    """[T, N] largest value of the latent."""
    n_rows: NDArray[np.uint64]
    """[T] rows seen."""
    n_images: NDArray[np.uint32]
    """[T] images seen."""

    def __post_init__(self) -> None:
        shape = (len(self.timesteps), self.fires.shape[-1])
        for name, (dtype, dims) in _FIELDS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape[:dims]:
                raise ValueError(f"{name} is {array.dtype} {array.shape}: expected {np.dtype(dtype)} {shape[:dims]}")
        if len(np.unique(self.timesteps)) != len(self.timesteps):
            raise ValueError(f"timesteps {self.timesteps.tolist()}: each may occur once")
        if np.isnan(self.max).any():
            raise ValueError("max holds NaN: expected numbers")


_FIELDS: dict[str, tuple[type[np.generic], int]] = {
    "timesteps": (np.int32, 1),
    "fires": (np.uint64, 2),
    "image_fires": (np.uint32, 2),
    "sum_fixed": (np.int64, 2),
    "sumsq_fixed": (np.int64, 2),
    "max": (np.float32, 2),
    "n_rows": (np.uint64, 1),
    "n_images": (np.uint32, 1),
}


def merge(parts: Sequence[Sums]) -> Sums:
    """Sums over all parts, which must be of different images. Timesteps are united and sorted; the order is irrelevant.

    Raises ValueError if there are no parts or their N differ, OverflowError if a count or sum does not fit.
    """
    if not parts or len({part.fires.shape[1] for part in parts}) != 1:
        raise ValueError(f"{len(parts)} parts of {sorted({p.fires.shape[1] for p in parts})} latents: expected one N")
    timesteps = np.unique(np.concatenate([part.timesteps for part in parts]))
    shape = (len(timesteps), parts[0].fires.shape[1])
    out: dict[str, NDArray[Any]] = {"timesteps": timesteps}
    for name, (dtype, dims) in _FIELDS.items():
        if name == "timesteps":
            continue
        total = np.full(shape[:dims], -np.inf if name == "max" else 0, dtype=dtype)
        for part in parts:
            at = np.searchsorted(timesteps, part.timesteps)
            # Adding 0 turns -0 into 0: otherwise the bits of a maximum would depend on the order.
            value = getattr(part, name)
            total[at] = np.maximum(total[at], value + dtype(0)) if name == "max" else _add(total[at], value, name)
        out[name] = total
    return Sums(**out)


def _add(left: NDArray[Any], right: NDArray[Any], name: str) -> NDArray[Any]:
    total: NDArray[Any] = left + right
    # Integers overflow silently: then the total lies on the wrong side of the left term.
    if ((total < left) != (right < 0)).any():
        raise OverflowError(f"{name} does not fit {total.dtype}: score fewer images in one artifact")
    return total


def write_statistics(folder: Path, sums: Sums) -> None:
    """Write the three files: twice T * N rows, zeros included, and T cells. Equal sums give equal bytes.

    Raises OverflowError if the mass of a step does not fit, DiskFull.
    """
    order = np.argsort(sums.timesteps, kind="stable")
    count, width = sums.fires.shape
    values = {name: getattr(sums, name)[order] for name in STATISTICS_SCHEMA.names[2:]}
    rows: dict[str, NDArray[Any]] = {
        "timestep": np.repeat(sums.timesteps[order], width),
        "latent": np.tile(np.arange(width, dtype=np.uint32), count),
    }
    rows |= {name: value.ravel() for name, value in values.items()}
    turned: dict[str, NDArray[Any]] = {
        "timestep": np.tile(sums.timesteps[order], width),
        "latent": np.repeat(np.arange(width, dtype=np.uint32), count),
    }
    turned |= {name: value.T.ravel() for name, value in values.items()}
    turned |= {name: np.tile(getattr(sums, name)[order], width) for name in ("n_rows", "n_images")}
    cells: dict[str, NDArray[Any]] = {"timestep": sums.timesteps[order], "mass": mass(sums.sum_fixed)[order]}
    cells |= {name: getattr(sums, name)[order] for name in ("n_rows", "n_images")}
    # Row groups hold whole steps: a query for one step finds it by its bounds, and reads nothing else.
    _write(folder / STATISTICS_FILE, rows, _STATISTICS, width * max(1, STEP_ROWS // width))
    write_parquet(
        folder / BY_LATENT_FILE, pa.table(turned, BY_LATENT_SCHEMA), BY_LATENT_ENCODINGS, count * GROUP_LATENTS
    )
    _write(folder / CELLS_FILE, cells, _CELLS, ROW_GROUP)


def mass(sum_fixed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of [T, N] over the latents, int64 [T]. Raises OverflowError if it does not fit."""
    if (np.abs(sum_fixed.astype(np.float64)).sum(-1) >= 2.0**62).any():
        raise OverflowError("the sum over all latents does not fit int64: score fewer images in one artifact")
    total: NDArray[np.int64] = sum_fixed.sum(-1)
    return total


def read_statistics(folder: Path) -> Sums:
    """Read the sums of `write_statistics`, timesteps ascending. Raises ArtifactMissing or ArtifactDamaged."""
    cells = read_parquet(folder / CELLS_FILE)
    table = read_parquet(folder / STATISTICS_FILE)
    for name, found, schema in ((STATISTICS_FILE, table, STATISTICS_SCHEMA), (CELLS_FILE, cells, CELLS_SCHEMA)):
        if not found.schema.equals(schema):
            raise ArtifactDamaged(folder / name, f"columns {schema.names}", f"{found.schema.names}")
    count = cells.num_rows
    if count == 0 or table.num_rows % count:
        raise ArtifactDamaged(folder / STATISTICS_FILE, f"a multiple of {count} timesteps", f"{table.num_rows} rows")
    arrays = {"timesteps": cells["timestep"].to_numpy()}
    arrays |= {name: table[name].to_numpy().reshape(count, -1) for name in STATISTICS_SCHEMA.names[2:]}
    arrays |= {name: cells[name].to_numpy() for name in ("n_rows", "n_images")}
    return Sums(**{field.name: arrays[field.name] for field in fields(Sums)})


@dataclass(frozen=True, eq=False)
class Counts:
    """The part of `Sums` that scores are computed from."""

    timesteps: NDArray[np.int32]
    """[T] ascending."""
    sum_fixed: NDArray[np.int64]
    """[T, N], in 2^-24."""
    n_rows: NDArray[np.uint64]
    """[T]."""
    n_images: NDArray[np.uint32]
    """[T]."""
    mass: NDArray[np.int64]
    """[T], the sum of sum_fixed over the latents."""


def read_counts(folder: Path) -> Counts:
    """Like `read_statistics`, six times as fast. Raises ArtifactMissing or ArtifactDamaged."""
    cells = read_parquet(folder / CELLS_FILE)
    if not cells.schema.equals(CELLS_SCHEMA):
        raise ArtifactDamaged(folder / CELLS_FILE, f"columns {CELLS_SCHEMA.names}", f"{cells.schema.names}")
    sums = read_parquet(folder / STATISTICS_FILE, ["sum_fixed"])["sum_fixed"].to_numpy()
    count = cells.num_rows
    if count == 0 or len(sums) % count:
        raise ArtifactDamaged(folder / STATISTICS_FILE, f"a multiple of {count} timesteps", f"{len(sums)} rows")
    rows = {name: cells[name].to_numpy() for name in CELLS_SCHEMA.names[1:]}
    return Counts(cells["timestep"].to_numpy(), sums.reshape(count, -1), **rows)


def _write(
    path: Path, columns: dict[str, NDArray[Any]], layout: dict[str, tuple[pa.DataType, str]], row_group: int
) -> None:
    table = pa.table({name: pa.array(columns[name], kind) for name, (kind, _) in layout.items()})
    write_parquet(path, table, {name: encoding for name, (_, encoding) in layout.items()}, row_group)
