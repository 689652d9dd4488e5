"""The objects under one URL of an object store: read, list, and write only where nobody else has written.

Two conditional writes carry everything: `create` succeeds for one of all writers (If-None-Match), `replace` only if
the object is still the one that was read (If-Match on its etag). If the answer to a write was lost, reading settles
whether it was done: the object has our bytes, or it has not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from storage.errors import ArtifactMissing, ObjectDamaged
from storage.files import atomic_path
from storage.remote.client import PATIENCE, client, endpoint, raise_for_bucket, requests

_PART = 16 << 20
"""Bytes of one part of a multipart upload."""


class Stat(NamedTuple):
    """An object in a listing."""

    size: int
    etag: str
    modified: datetime
    """Time of the last change, by the store's clock."""


class Store:
    """The objects of a URL. Every method raises StoreAway if the store does not answer, BadStore if it refuses."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        """Open no connection yet. Raises BadStore where obstore or credentials are missing."""
        self.url = url
        self._client = client(url, patience, endpoint(), os.getpid())

    def listing(self, prefix: str = "") -> dict[str, Stat]:
        """Every object below the folder `prefix`, such as `artifacts/sae`, by its key."""
        with requests(self.url) as obstore:
            return {
                meta["path"]: Stat(meta["size"], meta["e_tag"] or "", meta["last_modified"])
                for batch in obstore.list(self._client, prefix or None)
                for meta in batch
            }

    def read(self, key: str) -> tuple[bytes, str] | None:
        """(bytes, etag) of a small object, or None."""
        with requests(self.url) as obstore:
            try:
                got = obstore.get(self._client, key)
                return bytes(got.bytes()), got.meta["e_tag"] or ""
            except FileNotFoundError as error:
                raise_for_bucket(self.url, error)
                return None

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object if there is none; returns whether the store now holds `data`, whoever wrote it."""
        with requests(self.url) as obstore:
            try:
                obstore.put(self._client, key, data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                # By another writer, or by this one: the answer to the first attempt may have been lost.
                return self._holds(key, data)
        return True

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Write a small object if it still has this etag; returns whether the store now holds `data`."""
        with requests(self.url) as obstore:
            try:
                obstore.put(self._client, key, data, mode={"e_tag": etag})
            except obstore.exceptions.PreconditionError:
                return self._holds(key, data)
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        found = self.read(key)
        return found is not None and found[0] == data

    def write(self, key: str, source: bytes | Path) -> None:
        """Write or overwrite an object. A file is uploaded in parts, and appears whole."""
        with requests(self.url) as obstore:
            obstore.put(self._client, key, source, chunk_size=_PART, max_concurrency=4)

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, piece by piece. Raises ArtifactMissing if there is none."""
        with requests(self.url) as obstore:
            try:
                for piece in obstore.get(self._client, key).stream(min_chunk_size=1 << 20):
                    yield bytes(piece)
            except FileNotFoundError as error:
                raise_for_bucket(self.url, error)
                raise ArtifactMissing(f"{self.url}/{key}", "an object") from None

    def digest(self, key: str) -> str:
        """The SHA-256 of an object, read to its end. Raises ArtifactMissing if there is none."""
        sha = hashlib.sha256()
        for piece in self.pieces(key):
            sha.update(piece)
        return sha.hexdigest()

    def download(self, key: str, path: Path, size: int, sha256: str) -> None:
        """Write an object to `path` if it has this size and hash; otherwise leave `path` as it is.

        Raises ObjectDamaged, also if there is no object, and DiskFull.
        """
        sha, found = hashlib.sha256(), 0
        with atomic_path(path, needed=size) as temporary:
            try:
                with temporary.open("wb") as file:
                    for piece in self.pieces(key):
                        sha.update(piece)
                        found += file.write(piece)
            except ArtifactMissing:
                raise ObjectDamaged(key, f"{size} bytes", "no object", self.url) from None
            if found != size:
                raise ObjectDamaged(key, f"{size} bytes", f"{found} bytes", self.url)
            if sha.hexdigest() != sha256:
                raise ObjectDamaged(key, f"SHA-256 {sha256[:12]}…", f"{sha.hexdigest()[:12]}…", self.url)

    def move(self, key: str, to: str) -> bool:
        """Give an object another key; returns whether there was one. The store copies the bytes itself."""
        with requests(self.url) as obstore:
            try:
                obstore.copy(self._client, key, to)
            except FileNotFoundError as error:
                raise_for_bucket(self.url, error)
                return False
            obstore.delete(self._client, key)
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are skipped."""
        if todo := list(keys):
            with requests(self.url) as obstore:
                obstore.delete(self._client, todo)
