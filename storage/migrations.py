"""Migrations of a workspace from older formats to this one: a function for each, in order.

A function may be killed at any point and is then called again, so it leaves alone what it has done already. The number
of the format is written after it. Formats 1 and 2 were never released and have no migration: they are refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from storage.backend import Backend
from storage.errors import OtherFormat
from storage.files import json_text
from storage.layout import MARK
from storage.locks import held, lock

MIGRATIONS: dict[int, Callable[[Path], None]] = {}
"""{format: what turns the folder of a workspace of this format into one of the next}."""
PATIENCE = 10.0
"""Seconds to wait for other processes to end their work in a workspace."""


def migrate(backend: Backend, wanted: int) -> None:
    """Bring a workspace to the format `wanted`. A second process waits, and finds it done.

    Raises OtherFormat if a process, or for an object store a run on any machine, works in it for longer than
    PATIENCE; DiskFull.
    """
    with lock(backend.locks, "format"):
        found = json.loads((backend.root / MARK).read_bytes())["format"]
        end = time.monotonic() + PATIENCE
        while found < wanted and _busy(backend):
            if time.monotonic() > end:
                rest = (
                    ", and another process is at work in it: wait until that has ended, then run the same command again"
                )
                raise OtherFormat(backend.address, found, wanted, rest)
            time.sleep(0.2)
        for version in range(found, wanted):
            MIGRATIONS[version](backend.root)
            backend.write(backend.root / MARK, json_text({"format": version + 1}))


def _busy(backend: Backend) -> bool:
    locks = (p for p in backend.locks.glob("*.lock") if p.name != "format.lock")
    return held(*locks) or bool(backend.leases())
