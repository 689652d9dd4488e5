"""From a workspace's older format to this one's: a function for each, in order.

A function may be killed at any point, and is then done again from its beginning: what it has done already it leaves as
it is. The number of the format is written after it.

    1  as it began
    2  whatever is JSON has a seal, and runs are counted
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.backend import Backend
from storage.errors import StorageError, WorkspaceBusy
from storage.files import json_text, read_json, write_atomic
from storage.identity import digest
from storage.layout import MANIFEST, MARK
from storage.locks import held, lock
from storage.seals import read_sealed, write_sealed


def seal_and_count(root: Path) -> None:
    """1 -> 2. What is damaged already is left for `saeuron verify` to find: nothing here vouches for it."""
    config, seal = root / "run.json", root / "runs" / "remembered.sha256"
    if config.exists() and not seal.exists():
        write_atomic(seal, digest(config).encode())
    told = {path: fields for path, fields, _ in _read((root / "runs").glob("*.json")) if _started(fields)}
    order = sorted(told, key=lambda path: (told[path].get("number") or 0, _started(told[path]), path.stem))
    # From the last to the first: killed in between, the rest is still in order.
    for number, path in reversed([*enumerate(order, 1)]):
        asked = root / "runs" / "configs" / path.name
        known = told[path].get("config") or (digest(asked) if asked.exists() else None)
        now = {**told[path], "number": number, "config": known}
        if now != told[path]:
            write_sealed(path, now)
    patterns = (f"artifacts/*/*/{MANIFEST}", "records/*_v*", "concepts/*.json", "runs/*.json")
    for path, fields, sealed in _read(path for pattern in patterns for path in root.glob(pattern)):
        if not sealed:
            write_sealed(path, fields)


def _read(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any], bool]]:
    """(path, what it says without its seal, whether it has one) of the JSON objects in these files that are whole."""
    for path in paths:
        try:
            fields = read_json(path)
            if isinstance(fields, dict):
                yield path, read_sealed(path) if "seal" in fields else fields, "seal" in fields
        except StorageError:
            continue


def _started(run: dict[str, Any]) -> datetime | None:
    """When a run began; None if what should be its record is something else."""
    try:
        return datetime.fromisoformat(run["started"])
    except (KeyError, TypeError, ValueError):
        return None


MIGRATIONS: dict[int, Callable[[Path], None]] = {1: seal_and_count}
"""{format: what makes of a workspace of this format one of the next}."""


def migrate(backend: Backend, wanted: int) -> None:
    """Bring a workspace to the format `wanted`. Whoever comes second waits, and finds it done.

    Raises WorkspaceBusy if a process, or of an object store a run on any machine, is at work in it; DiskFull.
    """
    with lock(backend.locks, "format"):
        found = json.loads((backend.root / MARK).read_bytes())["format"]
        locks = (p for p in backend.locks.glob("*.lock") if p.name != "format.lock")
        if found < wanted and (held(*locks) or backend.leases()):
            raise WorkspaceBusy(backend.address, found, wanted)
        for version in range(found, wanted):
            MIGRATIONS[version](backend.root)
            backend.write(backend.root / MARK, json_text({"format": version + 1}))
