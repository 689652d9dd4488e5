"""Shards: WebDataset tars of dense samples, each with a sidecar that lists its members and their offsets.

A tar that is cut at a member boundary reads as a shorter tar, without any error. So the sidecar `<shard>.tar.json` is
the commit point: it is written after the tar and holds its size, members and SHA-256; a shard without it does not
exist. Members are found by offset and read with `pread`; `webdataset` reads the same files from end to end.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.dense.direct import sha256
from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import atomic_path, read_json, write_json
from storage.identity import digest

FORMAT = 1


class Member(BaseModel):
    """One file of a shard: `<key>.<extension>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    extension: str
    offset: int
    """Position of its first byte in the shard."""
    bytes: int
    """Its size in bytes."""
    shape: tuple[int, ...] | None = None
    """Shape of the array, for `.npy` members."""
    dtype: str | None = None
    """numpy's name of the array's dtype, for `.npy` members."""


class ShardManifest(BaseModel):
    """The sidecar of a shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    bytes: int
    """Size of the tar in bytes."""
    sha256: str
    """64 hex digits, of the tar."""
    meta: dict[str, Any]
    """The writer's description of the whole shard."""
    members: tuple[Member, ...]
    """In the order of the tar."""


def sidecar(path: Path) -> Path:
    """The path of a shard's sidecar."""
    return path.with_name(f"{path.name}.json")


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]], meta: dict[str, Any]) -> ShardManifest:
    """Write samples (key, {extension: bytes}) as an uncompressed tar, then its sidecar. Equal samples give equal bytes.

    `samples` may be a generator; one sample is in memory at a time. Raises ValueError for a key that is empty, repeated
    or holds a dot or a slash (webdataset splits names at the first dot), and DiskFull. After an error there is no
    shard, not even one that was there before: its sidecar is deleted first.
    """
    sidecar(path).unlink(missing_ok=True)
    members: list[Member] = []
    keys: set[str] = set()
    sha = hashlib.sha256()
    offset = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:

        def put(data: bytes) -> None:
            nonlocal offset
            file.write(data)
            sha.update(data)
            offset += len(data)

        for key, parts in samples:
            if key in keys or not parts:
                raise ValueError(f"sample {key!r} is {'repeated' if key in keys else 'empty'}")
            keys.add(key)
            for extension, data in sorted(parts.items()):
                put(_header(key, extension, len(data)))
                members.append(_member(key, extension, offset, data))
                put(data)
                put(bytes(-len(data) % tarfile.BLOCKSIZE))
        put(bytes(2 * tarfile.BLOCKSIZE))
        put(bytes(-offset % tarfile.RECORDSIZE))
    manifest = ShardManifest(format=FORMAT, bytes=offset, sha256=sha.hexdigest(), meta=meta, members=tuple(members))
    write_json(sidecar(path), manifest.model_dump(mode="json", exclude_none=True))
    return manifest


def read_manifest(path: Path) -> ShardManifest:
    """Read a shard's sidecar and check the tar's size.

    Raises ArtifactMissing if there is no sidecar, ArtifactDamaged if it does not fit the tar or has a later format.
    """
    beside = sidecar(path)
    if not beside.exists():
        raise ArtifactMissing(path, f"its manifest {beside.name}")
    try:
        manifest = ShardManifest.model_validate(read_json(beside))
    except ValidationError as error:
        raise ArtifactDamaged(beside, "a shard's manifest", f"{error.error_count()} fields that do not fit") from None
    if manifest.format > FORMAT:
        raise ArtifactDamaged(beside, f"format {FORMAT}", f"format {manifest.format}")
    size = path.stat().st_size if path.is_file() else None
    if size != manifest.bytes:
        raise ArtifactDamaged(path, f"{manifest.bytes} bytes", "no file" if size is None else f"{size} bytes")
    return manifest


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of one member. Safe in threads. Raises ArtifactDamaged if the file ends before the member does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(descriptor, member.bytes, member.offset)
    finally:
        os.close(descriptor)
    if len(data) != member.bytes:
        raise ArtifactDamaged(path, f"{member.bytes} bytes at {member.offset}", f"{len(data)}")
    return data


def verify(path: Path, deep: bool = False) -> list[str]:
    """Faults of a shard, one line each. `deep` reads every byte and compares its hash."""
    try:
        manifest = read_manifest(path)
        if deep:
            check(path, manifest)
    except (ArtifactMissing, ArtifactDamaged) as error:
        return [str(error)]
    return []


def check(path: Path, manifest: ShardManifest, direct: bool = False) -> None:
    """Hash the whole shard, bypassing the page cache if `direct`.

    Raises ArtifactDamaged if its SHA-256 is not the manifest's.
    """
    if (found := sha256(path) if direct else digest(path)) != manifest.sha256:
        raise ArtifactDamaged(path, f"SHA-256 {manifest.sha256[:12]}…", f"{found[:12]}…")


def _header(key: str, extension: str, size: int) -> bytes:
    if not key or "." in key or "/" in key or not extension or "/" in extension:
        raise ValueError(f"member {key!r} . {extension!r}: expected a key without dots or slashes, neither empty")
    # A fresh TarInfo has time 0 and owner 0, so the bytes do not depend on the time or the machine.
    info = tarfile.TarInfo(f"{key}.{extension}")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _member(key: str, extension: str, offset: int, data: bytes) -> Member:
    member = Member(key=key, extension=extension, offset=offset, bytes=len(data))
    if extension != "npy":
        return member
    shape, dtype, _ = npy_header(data)
    return member.model_copy(update={"shape": shape, "dtype": dtype.name})


_ONE_AT_A_TIME = threading.Lock()
"""CPython 3.11 may raise SystemError where several threads parse Python text at once, as numpy does with a header."""


def npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype, and the offset of the values in the bytes of an `.npy` file that is not stored by column.

    Raises ValueError for another file.
    """
    start = io.BytesIO(data)
    if np.lib.format.read_magic(start) != (1, 0):
        raise ValueError("an .npy member must be of version 1.0")
    with _ONE_AT_A_TIME:
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(start)
    if by_column or dtype.hasobject:
        raise ValueError(f"an .npy member must hold numbers by row, not {dtype}{' by column' if by_column else ''}")
    return shape, dtype, start.tell()
