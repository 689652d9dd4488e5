"""The manifest of an artifact: what it was made from, what it holds. Written last, it is the commit point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage import shards
from storage.errors import ArtifactMissing
from storage.identity import digest

MANIFEST = "manifest.json"
"""What a manifest is called. Written last: an artifact without it does not exist."""


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


def listed(folder: Path, exclude: Sequence[str] = ()) -> list[str]:
    """The names of a folder's files that belong to an artifact: no manifest, nothing hidden, no temporary."""
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        out = [name, *name.parents]
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.suffix != ".tmp" and not {str(p) for p in out} & set(exclude):
            names.append(name.as_posix())
    return sorted(name for name in names if name != MANIFEST)


def within(file: str, *names: str) -> bool:
    """Whether a file of an artifact is one of those that are named, or in a folder that is; all are if none is."""
    return not names or any(file == name or file.startswith(f"{name}/") for name in names)


def described(folder: Path, name: str) -> ManifestFile:
    """One file of a folder, hashed. Raises ArtifactMissing if it is not there, ArtifactDamaged as its sidecar says."""
    path = folder / name
    if not path.is_file():
        raise ArtifactMissing(path, "a file to commit")
    # A shard was hashed as it was written; to read terabytes again would double the cost of a capture.
    sha = shards.read_manifest(path).sha256 if path.suffix == ".tar" and shards.sidecar(path).exists() else digest(path)
    return ManifestFile(name=name, bytes=path.stat().st_size, sha256=sha)
