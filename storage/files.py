"""Files that are whole or absent: write to a temporary file beside them, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storage.errors import ArtifactDamaged, ArtifactMissing, DiskFull

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_TEMPORARY = re.compile(r"\..+\.(?:([0-9a-f]{6})-)?(\d+)\.\d+\.tmp")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever follows the dot."""
ABANDONED = 86400.0
"""A process of another machine counts as dead when its temporary was not written to for this many seconds."""
LONGEST = 180
"""Characters of a file name made from a name that a person chose; longer ones are cut and told apart by a hash."""
# EFBIG comes from a file-size limit (`ulimit -f`); to the user it is the same lack of room.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def file_name(name: str) -> str:
    """A name that a person chose, as a file name: percent-encoded but for ASCII letters, digits, `-_.~` and spaces.

    So no name reaches outside its folder, is hidden, is reserved on Windows, or shares its file with another.
    """
    text = quote(name, safe=" ")
    if text[:1] in (".", " ") or _RESERVED.match(text):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if text[-1:] in (".", " "):
        text = f"{text[:-1]}%{ord(text[-1]):02X}"
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return text


@contextmanager
def atomic_path(path: Path, needed: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to. It replaces `path` if the block succeeds, and is deleted if not.

    `needed` is the number of bytes to come, if known; it only improves the DiskFull message. Raises DiskFull in place
    of ENOSPC, EDQUOT and EFBIG. The name is `.{name}.{machine}-{pid}.{thread}.tmp`: hidden, never listed as part of an
    artifact, and different for any two writers of the same file.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.{threading.get_native_id()}.tmp")
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
    """Delete the temporaries of dead processes in and below `folder`; returns how many.

    Whether a process of another machine that shares the folder lives is unknown: it counts as dead after ABANDONED.
    """
    found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.rglob(".*.tmp")]
    dead = [path for path, match in found if match and _is_dead(path, match[1], int(match[2]))]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _is_dead(temporary: Path, host: str | None, pid: int) -> bool:
    if host in (None, _HOST):
        return not _alive(pid)
    try:
        return time.time() - temporary.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path`, all or nothing. Raises DiskFull if there is no room."""
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
    """The value in the JSON text `data`; `path` is what an error calls it. Raises ArtifactDamaged if it is not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ArtifactDamaged(path, "JSON", f"something else ({error})") from None
