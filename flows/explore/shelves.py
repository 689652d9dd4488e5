"""The workspace as pages see it: read once, and again in the background when it has changed."""

import contextlib
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from storage import Workspace
from storage.layout import MANIFEST
from tasks.explore.concepts import every
from tasks.explore.latents import uses
from tasks.explore.shelf import Shelf

log = logging.getLogger(__name__)

OFTEN = 2.0
"""Seconds between looks at whether the workspace has changed."""
_SPARE = 10
"""After a reading that took t seconds, none follows for 10 t: a run that goes on keeps changing the workspace."""


class Shelves:
    """The newest reading of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._lock = threading.Lock()
        self._mark = self._fingerprint()
        self._rests_until = 0.0
        self.shelf = _read(workspace)
        self.read = datetime.now(UTC)

    def now(self) -> Shelf:
        """The newest reading; where the workspace has changed, the next one is begun."""
        if time.monotonic() >= self._rests_until and self._lock.acquire(blocking=False):
            threading.Thread(target=self._look, name="shelves", daemon=True).start()
        return self.shelf

    def refresh(self) -> Shelf:
        """Read it again, and wait for that."""
        with self._lock:
            self._again()
        return self.shelf

    def _look(self) -> None:
        try:
            if self._fingerprint() != self._mark:
                self._again()
        except Exception as error:  # the last reading stays
            log.warning("the workspace could not be read again: %s", error)
        finally:
            self._rests_until = max(self._rests_until, time.monotonic() + OFTEN)
            self._lock.release()

    def _again(self) -> None:
        start = time.monotonic()
        mark = self._fingerprint()
        # The former reading may still answer a request: it is closed when nobody holds it.
        self.shelf, self._mark, self.read = _read(self.workspace), mark, datetime.now(UTC)
        self._rests_until = time.monotonic() + _SPARE * (time.monotonic() - start)

    def _fingerprint(self) -> tuple[object, ...]:
        """Something that changes with every commit, deletion, run and published removal; takes 10 ms for 5,000."""
        found: list[object] = []
        for stage in _entries(self.workspace.root / "artifacts"):
            for artifact in _entries(stage):
                with contextlib.suppress(OSError):
                    found.append((artifact.name, Path(artifact.path, MANIFEST).stat().st_mtime_ns))
        for folder in (self.workspace.removals, self.workspace.runs, self.workspace.root / "concepts"):
            found += [(e.name, e.stat().st_mtime_ns) for e in _entries(folder) if e.is_file()]
        return tuple(sorted(map(str, found)))


def _entries(folder: "os.PathLike[str] | os.DirEntry[str]") -> list["os.DirEntry[str]"]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _read(workspace: Workspace) -> Shelf:
    """A reading with all that pages would otherwise look up at their first view."""
    shelf = Shelf(workspace)
    _ = shelf.evaluations, shelf.outdated, shelf.protocols, shelf.small, shelf.once(uses), shelf.once(every)
    return shelf
