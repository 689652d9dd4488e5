"""Statistics in the order of features, for the page of one of them: packs, which hold many concepts in one file.

    features.parquet   member, and the columns of a concept's own features.parquet; sorted by feature

`member` is the place of the concept's score id in the sorted list of those that were packed.

A concept's own features.parquet is enough while there are few: opening one costs DuckDB a millisecond and a half. A
pack is made of several once there are `LOOSE` that no pack holds, and takes in the packs that are not larger than what
it has, so that each concept is written about log2(concepts) times and few files are ever open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ArtifactDamaged
from storage.parquet import parquet_writer
from storage.statistics.sums import BY_FEATURE, FEATURES_FILE, FEATURES_SCHEMA

LOOSE = 8
"""Concepts outside of packs at which one is made."""
PACK_SCHEMA = pa.schema([("member", pa.uint32()), *FEATURES_SCHEMA])
ROW_GROUP = 122_880
"""Rows of a pack's row group: DuckDB looks at the bounds of each, and reads one whole."""


def in_use(packs: Mapping[str, Set[str]]) -> list[str]:
    """Of packs {id: its members} those to read, largest first: no member is in two, and none is held by others."""
    chosen: list[str] = []
    held: set[str] = set()
    for name in sorted(packs, key=lambda name: (-len(packs[name]), name)):
        if packs[name] and not packs[name] & held:
            chosen.append(name)
            held |= packs[name]
    return chosen


def to_pack(members: Iterable[str], packs: Mapping[str, Set[str]]) -> list[str]:
    """The members of the pack that is to be made, sorted; none while there are few that no pack holds."""
    there = set(members)
    used = in_use(packs)
    chosen = there.difference(*(packs[name] for name in used))
    if len(chosen) < LOOSE:
        return []
    for name in reversed(used):
        if len(packs[name]) <= len(chosen):
            chosen |= packs[name] & there
    return sorted(chosen)


def write_pack(folder: Path, members: Mapping[str, Path]) -> None:
    """Merge the features.parquet of {score id: folder}; a few features at a time, so that memory does not fill.

    Raises ArtifactDamaged if one is not as `write_statistics` leaves it, or has another number of features; DiskFull.
    """
    names = sorted(members)
    files = [_opened(members[name] / FEATURES_FILE) for name in names]
    groups = {file.num_row_groups for file in files}
    if len(groups) != 1:
        raise ArtifactDamaged(members[names[-1]] / FEATURES_FILE, "as many features as the others", f"{sorted(groups)}")
    with parquet_writer(folder / FEATURES_FILE, PACK_SCHEMA, BY_FEATURE) as writer:
        waiting = PACK_SCHEMA.empty_table()
        for group in range(groups.pop()):
            waiting = pa.concat_tables([waiting, _merged([file.read_row_group(group) for file in files])])
            whole = waiting.num_rows // ROW_GROUP * ROW_GROUP
            if whole:
                writer.write_table(waiting.slice(0, whole), row_group_size=ROW_GROUP)
                waiting = waiting.slice(whole)
        if waiting.num_rows:
            writer.write_table(waiting, row_group_size=ROW_GROUP)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactDamaged(path, "a Parquet file", str(error).splitlines()[0]) from None
    if not file.schema_arrow.equals(FEATURES_SCHEMA):
        raise ArtifactDamaged(path, f"columns {FEATURES_SCHEMA.names}", f"{file.schema_arrow.names}")
    return file


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of some features of every member: feature by feature, then member by member."""
    features = len(np.unique(parts[0]["feature"].to_numpy()))
    columns = {}
    for name in PACK_SCHEMA.names:
        if name == "member":
            values = [np.full((features, part.num_rows // features), i, np.uint32) for i, part in enumerate(parts)]
        else:
            values = [part[name].to_numpy().reshape(features, -1) for part in parts]
        columns[name] = np.concatenate(values, axis=1).ravel()
    return pa.table(columns, PACK_SCHEMA)
