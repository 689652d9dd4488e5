"""Relations from manifests and records: removals, runs, statistics."""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import UTC, datetime
from typing import Any

from storage.catalog.columns import COLUMNS
from storage.catalog.scores import score_rows, score_sources
from storage.catalog.source import Row, Source, table
from storage.errors import StorageError
from storage.layout import LINK
from storage.manifests import Manifest
from storage.published import in_use
from storage.seals import read_sealed
from storage.tables import schema
from storage.workspace import Workspace

_REMOVALS, _RUNS = schema(COLUMNS["removals"]), schema(COLUMNS["runs"])


def sources(workspace: Workspace, stages: Mapping[str, list[Manifest]], damaged: list[str]) -> list[Source]:
    """The relations behind views.sql, from the committed artifacts, {stage: manifests}, and the runs.

    Records that are damaged are left out, and added to `damaged`.
    """
    dropped = _dropped(workspace, damaged)
    scores = score_rows(stages.get("score", []), dropped)
    removals = _removal_rows(workspace, stages.get("removal", []), scores, dropped)
    return [
        *score_sources(workspace, scores, stages),
        Source("removals", _REMOVALS, table(removals, _REMOVALS)),
        Source("runs", _RUNS, table(_run_rows(workspace, damaged), _RUNS)),
    ]


def _dropped(workspace: Workspace, damaged: list[str]) -> set[tuple[str, str]]:
    """(domain, concept) of the concepts that were dropped from the workspace's list."""
    found = set()
    for path in (workspace.root / "concepts").glob("*.json"):
        try:
            record = read_sealed(path)
        except StorageError:
            damaged.append(f"concepts/{path.name}")
            continue
        if record.get("dropped"):
            found.add((record.get("domain", ""), record.get("name", "")))
    return found


def _removal_rows(
    workspace: Workspace, manifests: list[Manifest], scores: list[Row], dropped: Set[tuple[str, str]]
) -> list[Row]:
    old = _outdated(manifests, scores)
    # Only removals in use can be outdated, not superseded ones or those of dropped concepts.
    used = in_use(workspace, manifests) if old else {}
    rows = []
    for manifest in manifests:
        row: Row = {name: manifest.summary.get(name) for name in _REMOVALS.names}
        concept, settings = row["concept"], row["settings"] or {}
        current = used.get((concept, row["method"]), manifest.id) == manifest.id
        current = current and (row["domain"], concept) not in dropped
        rows.append(
            row
            | {
                "removal_id": manifest.id,
                "settings": {name: str(value) for name, value in settings.items()},
                "outdated": current and manifest.id in old,
            }
        )
    return rows


def _outdated(removals: list[Manifest], scores: list[Row]) -> set[str]:
    """Removals whose reference set differs from the concepts scored now, under the same protocol and SAEs."""
    kinds = {row["score_id"]: (row["protocol"], row["domain"]) for row in scores}
    saes: dict[str, set[str]] = {}
    now: dict[tuple[str, str, str], set[str]] = {}
    for row in scores:
        saes.setdefault(row["score_id"], set()).add(row["sae_id"])
        if row["current"]:
            now.setdefault((row["protocol"], row["domain"], row["sae_id"]), set()).add(row["score_id"])
    found = set()
    for removal in removals:
        known = set(removal.summary.get("reference_ids") or ())
        used: set[str] = set()
        if known and known <= kinds.keys():
            used = set.intersection(*(saes[name] for name in known))
        groups = {(*kinds[name], sae) for name in known if name in kinds for sae in used}
        if known != set().union(*(now.get(group, ()) for group in groups)):
            found.add(removal.id)
    return found


def _run_rows(workspace: Workspace, damaged: list[str]) -> list[Row]:
    rows = []
    for path in sorted(workspace.runs.glob("*.json")):
        try:
            record = read_sealed(path)
            if record.get("state") == "running" and _dead(workspace, path.stem):
                # It may have ended between the look at its record and that at its lock.
                record = read_sealed(path)
                record |= {"state": "interrupted"} if record.get("state") == "running" else {}
            row = {name: record.get(name) for name in _RUNS.names}
            row |= {name: _time(row[name]) for name in ("started", "finished")}
        except (StorageError, ValueError):
            damaged.append(f"runs/{path.name}")
            continue
        told = workspace.runs / "configs" / path.name
        row["configuration"] = told.read_text("utf-8") if told.exists() else None
        row["artifacts"] = None if record.get("artifacts") is None else sorted(record["artifacts"])
        rows.append(row | {name: _count(row[name]) for name in ("made", "cached", "failed")})
    return rows


def _dead(workspace: Workspace, run_id: str) -> bool:
    """Whether no process of this machine is the run's; on an object store, where it may be another's, never."""
    return not (workspace.root / LINK).exists() and not workspace.busy(run_id)


def _time(text: str | None) -> datetime | None:
    """An ISO time as a naive datetime in UTC, for which DuckDB needs no extension."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _count(value: Any) -> int | None:
    return len(value) if isinstance(value, list | dict) else value
