"""The manifest of an artifact: what it was made from, what it holds. Written last, it is the commit point."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from storage.declared import View
from storage.dense import shards
from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.identity import digest
from storage.layout import MANIFEST
from storage.seals import unsealed


def _inside(place: str) -> str:
    if not re.fullmatch(r"(?!artifacts/)[a-z]+(/(?!\.)[^/\0]+)+", place):
        raise ValueError(f"{place!r} is not a path in the workspace: expected one such as pictures/NAME.png")
    return place


Place = Annotated[str, AfterValidator(_inside)]
"""A path below a folder of the workspace that is for people."""


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
    """Figures for SQL and for people."""
    files: tuple[ManifestFile, ...]
    """Every file, sorted by name."""
    created: str
    """ISO time in UTC."""
    seconds: float
    """Seconds of its making, wall clock."""
    publishes: dict[str, Place] = {}
    """{file of the artifact: path in the workspace where people look for a copy of it}."""
    views: tuple[View, ...] = ()
    """Its views in SQL, beside those that every workspace has."""


def listed(folder: Path, exclude: Sequence[str] = ()) -> list[str]:
    """The names of a folder's files that belong to an artifact: not its manifest, hidden files or temporaries."""
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        out = [name, *name.parents]
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.suffix != ".tmp" and not {str(p) for p in out} & set(exclude):
            names.append(name.as_posix())
    return sorted(name for name in names if name != MANIFEST)


def within(file: str, *names: str) -> bool:
    """Whether a file of an artifact is in `names`, or in a folder that is; without `names`, every file is."""
    return not names or any(file == name or file.startswith(f"{name}/") for name in names)


def described(folder: Path, name: str) -> ManifestFile:
    """One file of a folder with its size and hash.

    Raises ArtifactMissing if the file is not there, ArtifactDamaged if a shard differs from its sidecar.
    """
    path = folder / name
    if not path.is_file():
        raise ArtifactMissing(path, "a file to commit")
    # A shard was hashed while it was written. Reading terabytes again would double the cost of a capture.
    sha = shards.read_manifest(path).sha256 if path.suffix == ".tar" and shards.sidecar(path).exists() else digest(path)
    return ManifestFile(name=name, bytes=path.stat().st_size, sha256=sha)


def parse(data: bytes, path: Path, artifact_id: str) -> Manifest:
    """The manifest of `artifact_id` from its sealed JSON; `path` is what an error calls it. Raises ArtifactDamaged."""
    try:
        manifest = Manifest.model_validate(unsealed(data, path))
    except ValidationError as error:
        raise ArtifactDamaged(path, "a manifest", f"{error.error_count()} fields that do not fit") from None
    if manifest.id != artifact_id:
        raise ArtifactDamaged(path, f"the manifest of {artifact_id}", f"that of {manifest.id}")
    for file in manifest.files:
        # Others may have written into the bucket. A manifest names files within the artifact's folder, or nothing.
        if file.name in ("", ".") or file.name.startswith("/") or ".." in file.name.split("/"):
            raise ArtifactDamaged(path, "names of files in its folder", repr(file.name))
    return manifest


def same(path: Path, file: ManifestFile, deep: bool = True) -> bool:
    """Whether the file at `path` has the size, and with `deep` the bytes, that a manifest says."""
    return path.is_file() and path.stat().st_size == file.bytes and (not deep or digest(path) == file.sha256)


def differences(
    folder: Path, files: Iterable[ManifestFile], hashed: Callable[[str], bool] = lambda name: False
) -> Iterator[ArtifactDamaged]:
    """Differences between the files in a folder and a manifest.

    Sizes are compared; the SHA-256 as well of the files whose name `hashed` says yes to.
    """
    for file in files:
        path = folder / file.name
        if not path.is_file():
            yield ArtifactDamaged(path, f"{file.bytes} bytes", "no file")
        elif (size := path.stat().st_size) != file.bytes:
            yield ArtifactDamaged(path, f"{file.bytes} bytes", f"{size} bytes")
        elif hashed(file.name) and (sha := digest(path)) != file.sha256:
            yield ArtifactDamaged(path, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")
