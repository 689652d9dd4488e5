"""The manifest of an artifact: what it was made from, what it holds. Written last, it is the commit point."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestFile(_Record):
    """One file of an artifact."""

    name: str
    """Path inside the artifact's folder, with forward slashes."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """64 hex digits."""


class Manifest(_Record):
    """One artifact. `created` and `seconds` differ between runs; the files it lists are byte-identical."""

    id: str
    """`<stage>_v<version>_<hash>`; also the name of the folder."""
    stage: str
    """Which stage made it; the first part of the id."""
    version: int
    """Version of the stage's meaning; the second part of the id."""
    config: dict[str, Any]
    """The resolved config, without secrets."""
    inputs: dict[str, Any]
    """Ids of the artifacts that it was made from, by role."""
    summary: dict[str, Any]
    """What the catalog shows of it."""
    files: tuple[ManifestFile, ...]
    """Every file, sorted by name."""
    created: str
    """ISO time in UTC."""
    seconds: float
    """How long it took to make, wall clock."""
