"""Relations of statistics: the files of every concept, and those derived from many concepts.

These are the totals of a domain, so that a score does not read the statistics of all other concepts, and packs, which
are ordered by latent. Both may be missing or stale: then the views read the concepts' own files, with the same result
but slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import pyarrow as pa

from storage.catalog.source import Row, Source, table
from storage.manifests import Manifest
from storage.parquet import read_parquet
from storage.statistics.packs import PACK_SCHEMA, in_use
from storage.statistics.sums import (
    BY_LATENT_FILE,
    BY_LATENT_SCHEMA,
    CELLS_FILE,
    CELLS_SCHEMA,
    STATISTICS_FILE,
    STATISTICS_SCHEMA,
)
from storage.statistics.totals import TOTALS_FILE, TOTALS_SCHEMA
from storage.workspace import Workspace

_SCORE_FILES = pa.schema(
    [
        ("file_index", pa.uint64()),
        ("totals_index", pa.uint64()),  # the totals that include these statistics; null unless they are current
        ("current", pa.bool_()),
        *((name, pa.string()) for name in ("score_id", "sae_id", "hookpoint", "protocol", "domain", "concept", "half")),
    ]
)
_CELLS = pa.schema(
    [
        ("file_index", pa.uint64()),
        ("totals_index", pa.uint64()),
        ("timestep", pa.int32()),
        ("n_rows", pa.uint64()),
        ("mass", pa.int64()),
    ]
)
_LOOSE_FILES = pa.schema([(name, pa.uint64()) for name in ("file_index", "totals_index", "score_index")])
_OWN_FILES = pa.schema([("file_index", pa.uint64()), ("score_index", pa.uint64())])
_PACK_MEMBERS = pa.schema([("file_index", pa.uint64()), ("member", pa.uint32()), ("score_index", pa.uint64())])


def score_rows(manifests: list[Manifest], dropped: Set[tuple[str, str]]) -> list[Row]:
    """One row per concept and SAE; `folder` is the folder of its files within the artifact."""
    newest: dict[tuple[str, ...], tuple[str, str]] = {}
    rows: list[Row] = []
    for manifest in manifests:
        about = manifest.summary
        for sae in about.get("saes", ()):
            key = (sae["sae_id"], about["protocol"], about["domain"], about["concept"])
            newest[key] = max(newest.get(key, ("", "")), (manifest.created, manifest.id))
            rows.append(
                {
                    "file_index": len(rows),
                    "totals_index": None,
                    "score_id": manifest.id,
                    "sae_id": sae["sae_id"],
                    "hookpoint": sae["hookpoint"],
                    "folder": sae["folder"],
                    **{name: about[name] for name in ("protocol", "domain", "concept", "half")},
                }
            )
    # A concept scored twice under one protocol counts once: otherwise 'all other concepts' would include itself.
    for row in rows:
        key = (row["sae_id"], row["protocol"], row["domain"], row["concept"])
        row["current"] = newest[key][1] == row["score_id"] and key[2:] not in dropped
    return rows


def score_sources(workspace: Workspace, rows: list[Row], stages: Mapping[str, list[Manifest]]) -> list[Source]:
    """Relations of the views statistics, statistics_by_latent, scores and top_latents; `score_rows` makes `rows`."""
    folders = [workspace.folder(row["score_id"]) / row["folder"] for row in rows]
    totals, loose = _totals(rows, stages.get("totals", []))
    packs = {m.id: m.config["scores"] for m in stages.get("packs", [])}
    saes = {m.id: m.config["sae_id"] for m in stages.get("packs", [])}
    by_sae = {sae_id: {i: {*packs[i]} for i in packs if saes[i] == sae_id} for sae_id in sorted({*saes.values()})}
    used = [name for each in by_sae.values() for name in in_use(each)]
    at = {(row["score_id"], row["sae_id"]): row["file_index"] for row in rows}
    members = [
        {"file_index": index, "member": member, "score_index": at[score_id, saes[name]]}
        for index, name in enumerate(used)
        for member, score_id in enumerate(packs[name])
        if (score_id, saes[name]) in at
    ]
    packed = {member["score_index"] for member in members}
    own = [index for index in range(len(rows)) if index not in packed]
    own_rows = [{"file_index": index, "score_index": score} for index, score in enumerate(own)]
    places = [workspace.folder(m.id) for m in totals]
    alone = [folders[row["score_index"]] for row in loose]
    workspace.backend.bring(folder / CELLS_FILE for folder in (*places, *alone))
    return [
        Source("score_files", _SCORE_FILES, table(rows, _SCORE_FILES)),
        Source("statistics_rows", STATISTICS_SCHEMA, files=tuple(folder / STATISTICS_FILE for folder in folders)),
        Source("cell_rows", CELLS_SCHEMA, files=tuple(folder / CELLS_FILE for folder in folders)),
        Source("totals_rows", TOTALS_SCHEMA, files=tuple(place / TOTALS_FILE for place in places)),
        Source("current_cells", _CELLS, _current_cells(rows, places, alone, loose)),
        Source("loose_files", _LOOSE_FILES, table(loose, _LOOSE_FILES)),
        Source("loose_rows", STATISTICS_SCHEMA, files=tuple(folder / STATISTICS_FILE for folder in alone)),
        Source("pack_members", _PACK_MEMBERS, table(members, _PACK_MEMBERS)),
        Source("pack_rows", PACK_SCHEMA, files=tuple(workspace.folder(name) / BY_LATENT_FILE for name in used)),
        Source("own_files", _OWN_FILES, table(own_rows, _OWN_FILES)),
        Source("own_rows", BY_LATENT_SCHEMA, files=tuple(folders[index] / BY_LATENT_FILE for index in own)),
    ]


def _current_cells(
    rows: Sequence[Row], totals: Sequence[Path], alone: Sequence[Path], loose: Sequence[Row]
) -> pa.Table:
    """The cells of current statistics. Raises ArtifactMissing or ArtifactDamaged."""
    at = {(row["totals_index"], row["score_id"]): row["file_index"] for row in rows if row["current"]}
    found: list[Row] = []
    for index, folder in enumerate(totals):
        for cell in read_parquet(folder / CELLS_FILE).to_pylist():
            found.append({**cell, "totals_index": index, "file_index": at[index, cell["score_id"]]})
    for row, folder in zip(loose, alone, strict=True):
        about = {"totals_index": row["totals_index"], "file_index": row["score_index"]}
        found += [{**cell, **about} for cell in read_parquet(folder / CELLS_FILE).to_pylist()]
    return table(({name: cell[name] for name in _CELLS.names} for cell in found), _CELLS)


def _totals(rows: Sequence[Row], manifests: Sequence[Manifest]) -> tuple[list[Manifest], list[Row]]:
    """Set `totals_index` in every current row; returns the totals in use, and the rows that no totals include."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["current"]:
            groups.setdefault((row["sae_id"], row["protocol"], row["domain"]), []).append(row)
    known = {(m.config["sae_id"], tuple(m.config["scores"])): m for m in manifests}
    used: list[Manifest] = []
    without: list[list[Row]] = []
    for (sae_id, *_), group in groups.items():
        there = known.get((sae_id, tuple(sorted(row["score_id"] for row in group))))
        if there is None:
            without.append(group)
            continue
        for row in group:
            row["totals_index"] = len(used)
        used.append(there)
    loose: list[Row] = []
    for index, group in enumerate(without, start=len(used)):
        for row in group:
            row["totals_index"] = index
            loose.append({"file_index": len(loose), "totals_index": index, "score_index": row["file_index"]})
    return used, loose
