"""Locks between processes and threads. A dead process holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from storage.errors import DiskFull
from storage.files import NO_ROOM
from storage.identity import digest

_LONGEST_NAME = 200


@contextmanager
def lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock `name` for the length of a `with` block; wait for it as long as it takes. Not re-entrant.

    The kernel holds the lock (flock on a file in `folder`) and releases it when its holder dies in any way. Each call
    opens the file anew, so threads of one process exclude each other too. The file stays: if it were deleted, two
    holders could lock two different files of one name. Raises DiskFull if there is no room for a new file.
    """
    encoded = quote(name, safe="")
    if len(encoded) > _LONGEST_NAME:
        encoded = digest(name.encode())
    # With the suffix, the names "." and ".." are not the folder itself or its parent.
    descriptor = _opened(folder / f"{encoded}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Explicitly, because a forked child may still hold a copy of the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def held(*paths: Path) -> bool:
    """Whether a living process holds the lock of any of these files. Missing files are not locked."""
    try:
        for path in paths:
            if path.exists():
                with at_once(path):
                    pass
    except BlockingIOError:
        return True
    return False


@contextmanager
def at_once(path: Path) -> Iterator[None]:
    """Hold the lock of a file, without waiting. Raises BlockingIOError if another holds it, DiskFull as `lock`."""
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(path, 0) from error
        raise
