"""What one concept does to the latents of one SAE: sums per (timestep, feature), which merge exactly.

Sums of activations and of their squares are integers in units of 2^-24, so that adding parts gives the same bits in
every order: float64 does that for sums of float16, but not for squares.

    statistics.parquet   timestep, feature, fires, image_fires, sum_fixed, sumsq_fixed, max; dense, in this order
    features.parquet     the same rows, with n_rows and n_images, sorted by (feature, timestep); see `features.py`
    cells.parquet        timestep, n_rows, n_images, mass (the sum of sum_fixed over all features)
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
"""How many units make 1.0."""
STATISTICS_FILE = "statistics.parquet"
FEATURES_FILE = "features.parquet"
CELLS_FILE = "cells.parquet"
STEP_ROWS = 16_384
"""Most rows of a row group of statistics.parquet, where it holds several timesteps."""
FEATURES = 512
"""Features in a row group of features.parquet."""

_DELTA, _SPLIT = "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"
# Splitting the bytes of the sums beats deltas: 5.1 bytes a row for the whole table against 6.4.
_STATISTICS = {
    "timestep": (pa.int32(), _DELTA),
    "feature": (pa.uint32(), _DELTA),
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
FEATURES_SCHEMA = pa.schema([*STATISTICS_SCHEMA, ("n_rows", pa.uint64()), ("n_images", pa.uint32())])
BY_FEATURE = {"fires": "PLAIN", "image_fires": "PLAIN", "sum_fixed": "PLAIN", "sumsq_fixed": _SPLIT, "max": "PLAIN"}
"""Encodings where rows are sorted by feature; a page of one took DuckDB 13 ms, and with deltas 17 (docs/adr/0008)."""
CELLS_SCHEMA = pa.schema([(name, kind) for name, (kind, _) in _CELLS.items()])


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the rows (one spatial position of one image at one step) of T timesteps, for N latents.

    Raises ValueError if a shape or dtype is another, a timestep comes twice, or a maximum is NaN.
    """

    timesteps: NDArray[np.int32]
    """[T] timesteps of the scheduler."""
    fires: NDArray[np.uint64]
    """[T, N] rows where the latent is not 0."""
    image_fires: NDArray[np.uint32]
    """[T, N] images with such a row."""
    sum_fixed: NDArray[np.int64]
    """[T, N] sum of the latent, in 2^-24."""
    sumsq_fixed: NDArray[np.int64]
    """[T, N] sum of its square, in 2^-24."""
    max: NDArray[np.float32]
    """[T, N] its largest value."""
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
            raise ValueError(f"timesteps {self.timesteps.tolist()}: each may come once")
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
    """The sums over all parts, whose images must differ. Timesteps are united and sorted. The same bits in every order.

    Raises ValueError if there are no parts or their N differ, OverflowError if a count or a sum does not fit.
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
            # Adding 0 turns -0 into 0, which would otherwise depend on the order.
            value = getattr(part, name)
            total[at] = np.maximum(total[at], value + dtype(0)) if name == "max" else _add(total[at], value, name)
        out[name] = total
    return Sums(**out)


def _add(left: NDArray[Any], right: NDArray[Any], name: str) -> NDArray[Any]:
    total: NDArray[Any] = left + right
    # Integers wrap without a word: for two terms of one sign that shows as a total on the wrong side.
    if ((total < left) != (right < 0)).any():
        raise OverflowError(f"{name} does not fit {total.dtype}: score fewer images in one artifact")
    return total


def write_statistics(folder: Path, sums: Sums) -> None:
    """Write the three files: twice T * N rows, zeros included, and T cells. Equal sums, equal bytes.

    Raises OverflowError if the mass of a step does not fit, DiskFull.
    """
    order = np.argsort(sums.timesteps, kind="stable")
    count, width = sums.fires.shape
    values = {name: getattr(sums, name)[order] for name in STATISTICS_SCHEMA.names[2:]}
    rows: dict[str, NDArray[Any]] = {
        "timestep": np.repeat(sums.timesteps[order], width),
        "feature": np.tile(np.arange(width, dtype=np.uint32), count),
    }
    rows |= {name: value.ravel() for name, value in values.items()}
    turned: dict[str, NDArray[Any]] = {
        "timestep": np.tile(sums.timesteps[order], width),
        "feature": np.repeat(np.arange(width, dtype=np.uint32), count),
    }
    turned |= {name: value.T.ravel() for name, value in values.items()}
    turned |= {name: np.tile(getattr(sums, name)[order], width) for name in ("n_rows", "n_images")}
    cells: dict[str, NDArray[Any]] = {"timestep": sums.timesteps[order], "mass": mass(sums.sum_fixed)[order]}
    cells |= {name: getattr(sums, name)[order] for name in ("n_rows", "n_images")}
    # Whole steps in a row group: one step is found by its bounds, and nothing else is read.
    _write(folder / STATISTICS_FILE, rows, _STATISTICS, width * max(1, STEP_ROWS // width))
    write_parquet(folder / FEATURES_FILE, pa.table(turned, FEATURES_SCHEMA), BY_FEATURE, count * FEATURES)
    _write(folder / CELLS_FILE, cells, _CELLS, ROW_GROUP)


def mass(sum_fixed: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [T], the sum of [T, N] over the features. Raises OverflowError if it does not fit."""
    if (np.abs(sum_fixed.astype(np.float64)).sum(-1) >= 2.0**62).any():
        raise OverflowError("the sum over all features does not fit int64: score fewer images in one artifact")
    total: NDArray[np.int64] = sum_fixed.sum(-1)
    return total


def read_statistics(folder: Path) -> Sums:
    """What `write_statistics` wrote, timesteps ascending. Raises ArtifactMissing or ArtifactDamaged."""
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
    """[T], the sum of sum_fixed over the features."""


def read_counts(folder: Path) -> Counts:
    """As `read_statistics`, in a sixth of the time. Raises ArtifactMissing or ArtifactDamaged."""
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
