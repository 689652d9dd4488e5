"""Files that are whole or absent: write to a temporary neighbour, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.errors import ArtifactDamaged, ArtifactMissing, DiskFull

_TEMPORARY = re.compile(r"\..+\.(\d+)\.\d+\.tmp")
# EFBIG is what a file-size limit (`ulimit -f`) says; to the user it is the same lack of room.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def atomic_path(path: Path, needed: int = 0) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it becomes `path` when the block ends well, and vanishes if not.

    `needed` is the number of bytes to come, when that is known; it only makes the DiskFull message better. Raises
    DiskFull in place of ENOSPC, EDQUOT and EFBIG. The name is `.{name}.{pid}.{thread}.tmp`: hidden, never listed as
    part of an artifact, and apart for two threads that write the same file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in NO_ROOM:
            written = temporary.stat().st_size if temporary.exists() else 0
            raise DiskFull(path, max(needed, written)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> int:
    """Remove the temporaries in and below `folder` whose process is dead, such as a killed one's; how many."""
    found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.rglob(".*.tmp")]
    dead = [path for path, match in found if match and not _alive(int(match[1]))]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, all or nothing. Raises DiskFull if there is no room."""
    with atomic_path(path, needed=len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_text`, all or nothing."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> bytes:
    """Indented JSON with sorted keys. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ArtifactMissing if there is no file, ArtifactDamaged if it is not JSON."""
    try:
        return parsed_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise ArtifactMissing(path, "a JSON file") from None


def parsed_json(data: bytes, path: Path) -> Any:
    """The value in JSON's bytes, which lie at `path`. Raises ArtifactDamaged if they are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ArtifactDamaged(path, "JSON", f"something else ({error})") from None
