"""Ids: an artifact's name is a hash of what it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import UnknownArtifact

_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_ID = re.compile(r"(?P<stage>[a-z][a-z0-9_]*)_v(?P<version>[0-9]+)_(?P<hash>[0-9a-f]{20})")
_CHUNK = 1 << 20


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, tuples as lists.

    Raises TypeError for what has no single JSON form (sets, paths, arrays, keys that are not strings) and ValueError
    for NaN and infinity. Paths are refused because an id must not depend on where something lies.
    """
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), allow_nan=False)


_SCALARS = {str, int, bool, type(None)}
"""Types that JSON takes as they are. Payloads hold hundreds of them, so these cost no call and no text of where."""


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: an id needs a finite number")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: keys must be strings")
        return {key: item if type(item) in _SCALARS else _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _SCALARS else _plain(item, f"{where}[{index}]") for index, item in enumerate(value)
        ]
    raise TypeError(f"{where} is a {type(value).__name__}: expected null, bool, number, string, list or mapping")


def artifact_id(stage: str, version: int, payload: Mapping[str, Any]) -> str:
    """`<stage>_v<version>_<20 hex digits>`, the digits from the SHA-256 of the payload's canonical JSON.

    The payload holds the config and the ids of the inputs. Two calls with equal payloads give equal ids on every
    machine. Raises ValueError for a stage that is not lower-case letters, digits and underscores.
    """
    if not _STAGE.fullmatch(stage) or version < 0:
        raise ValueError(f"stage {stage!r} version {version}: expected lower-case letters and a version from 0 up")
    return f"{stage}_v{version}_{digest(canonical_json(payload).encode())[:20]}"


def split_id(artifact_id: str) -> tuple[str, int]:
    """The (stage, version) of an artifact id. Raises UnknownArtifact if the text is not an id, for example a path."""
    match = _ID.fullmatch(artifact_id)
    if match is None:
        raise UnknownArtifact(artifact_id)
    return match["stage"], int(match["version"])


def is_id(text: str) -> bool:
    """Whether the text is an artifact's id."""
    return _ID.fullmatch(text) is not None


def digest(source: bytes | Path) -> str:
    """SHA-256 of bytes, or of a file read in pieces, as 64 hex digits."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    sha = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
