"""Packs: statistics of many concepts in one file, ordered by latent, for queries about one latent.

    by_latent.parquet   member, and the columns of a concept's own by_latent.parquet; sorted by latent

`member` is the index of the concept's score id in the sorted list of packed ids.

A concept's own by_latent.parquet is enough for few concepts, but DuckDB needs 1.5 ms to open each. Once `LOOSE`
concepts are in no pack, a pack is made of them. It also takes in the packs that are not larger than itself. So each
concept is written about log2(concepts) times, and few files are ever open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ArtifactDamaged
from storage.parquet import parquet_writer
from storage.statistics.sums import BY_LATENT_ENCODINGS, BY_LATENT_FILE, BY_LATENT_SCHEMA

LOOSE = 8
"""Number of concepts outside of packs from which a pack is made."""
PACK_SCHEMA = pa.schema([("member", pa.uint32()), *BY_LATENT_SCHEMA])
ROW_GROUP = 122_880
"""Rows of a pack's row group: DuckDB checks the bounds of each group, and reads whole groups."""


def in_use(packs: Mapping[str, Set[str]]) -> list[str]:
    """The packs to read, of {id: members}, largest first: no concept twice, and no pack that is contained in others."""
    chosen: list[str] = []
    held: set[str] = set()
    for name in sorted(packs, key=lambda name: (-len(packs[name]), name)):
        if packs[name] and not packs[name] & held:
            chosen.append(name)
            held |= packs[name]
    return chosen


def to_pack(members: Iterable[str], packs: Mapping[str, Set[str]]) -> list[str]:
    """Members of the next pack to make, sorted; empty while fewer than `LOOSE` are in no pack."""
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
    """Merge the by_latent.parquet of {score id: folder}, a few latents at a time to bound the memory.

    Raises ArtifactDamaged if a file was not written by `write_statistics` or has another number of latents; DiskFull.
    """
    names = sorted(members)
    files = [_opened(members[name] / BY_LATENT_FILE) for name in names]
    groups = {file.num_row_groups for file in files}
    if len(groups) != 1:
        raise ArtifactDamaged(members[names[-1]] / BY_LATENT_FILE, "as many latents as the others", f"{sorted(groups)}")
    with parquet_writer(folder / BY_LATENT_FILE, PACK_SCHEMA, BY_LATENT_ENCODINGS) as writer:
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
    if not file.schema_arrow.equals(BY_LATENT_SCHEMA):
        raise ArtifactDamaged(path, f"columns {BY_LATENT_SCHEMA.names}", f"{file.schema_arrow.names}")
    return file


def _merged(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of some latents of every member: latent by latent, then member by member."""
    latents = len(np.unique(parts[0]["latent"].to_numpy()))
    columns = {}
    for name in PACK_SCHEMA.names:
        if name == "member":
            values = [np.full((latents, part.num_rows // latents), i, np.uint32) for i, part in enumerate(parts)]
        else:
            values = [part[name].to_numpy().reshape(latents, -1) for part in parts]
        columns[name] = np.concatenate(values, axis=1).ravel()
    return pa.table(columns, PACK_SCHEMA)
