"""JSON and HTML that carry their own hash, so that any change to them is found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import json_text, parsed_json, write_atomic
from storage.identity import digest

_MARK = b"<!-- sha256 %s -->\n"


def sealed(fields: Mapping[str, Any]) -> bytes:
    """A JSON object with a seal, the SHA-256 of its other fields: with one changed letter it might still be JSON."""
    return json_text({**fields, "seal": _seal(fields)})


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a `sealed` JSON object, all or nothing."""
    write_atomic(path, sealed(fields))


def read_sealed(path: Path) -> dict[str, Any]:
    """The fields of a sealed JSON file, without the seal.

    Raises ArtifactMissing if there is no file, ArtifactDamaged if it is not as it was written.
    """
    try:
        return unsealed(path.read_bytes(), path)
    except FileNotFoundError:
        raise ArtifactMissing(path, "a JSON file") from None


def sealed_page(html: str) -> bytes:
    """An HTML page with its SHA-256 in a comment at the end."""
    data = html.encode()
    return data + _MARK % digest(data).encode()


def check_page(path: Path) -> None:
    """Raise ArtifactDamaged if the page at `path` is not as `sealed_page` made it."""
    data = path.read_bytes()
    length = len(_MARK % bytes(64))
    if data[-length:] != _MARK % digest(data[:-length]).encode():
        raise ArtifactDamaged(path, "a page with its SHA-256", "another text, or none")


def unsealed(data: bytes, path: Path) -> dict[str, Any]:
    """Like `read_sealed`, from the bytes of the file; errors name `path`."""
    fields = parsed_json(data, path)
    if not isinstance(fields, dict):
        raise ArtifactDamaged(path, "a JSON object", type(fields).__name__)
    seal = fields.pop("seal", None)
    if seal is None:
        raise ArtifactDamaged(path, "a seal", "none")
    if seal != (found := _seal(fields)):
        raise ArtifactDamaged(path, f"SHA-256 {str(seal)[:12]}…", f"{found[:12]}…")
    return fields


def _seal(fields: Mapping[str, Any]) -> str:
    return digest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
