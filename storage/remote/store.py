"""The objects under one URL of an object store: read, list, and write only where nobody else has written.

Two writes carry everything: `create` succeeds for one of all who try (If-None-Match), `replace` only if the object is
still the one that was read (If-Match on its etag). Whether a write whose answer was lost has been done is settled by
reading: the bytes are ours, or they are not. Endpoint, region and credentials come from the environment alone
(AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN). docs/adr/0006 says why
obstore.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from storage.errors import ArtifactMissing, BadStore, ObjectDamaged, StoreAway
from storage.files import atomic_path

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEMES = ("s3",)
"""What is tested."""
PATIENCE = 60.0
"""Seconds for which a request is tried again while the store is away."""
PROBE = 4.0
"""The same of the first request of a command: a wrong endpoint is said at once."""
_PART = 16 << 20
"""Bytes of one part of a multipart upload."""
_READ_TIMEOUT = 20.0
"""Seconds without a byte after which an answer counts as lost."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")
_SOURCES = (
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_METADATA_ENDPOINT", "AWS_SKIP_SIGNATURE"),
)
"""Variables that stand for credentials, beside a pair of keys."""


class Stat(NamedTuple):
    """What a listing says of an object."""

    size: int
    etag: str
    modified: datetime
    """By the store's clock."""


def is_url(place: object) -> bool:
    """Whether it is a URL, and no folder; a Path that was made of one has lost a slash, and is one still."""
    return _URL.fullmatch(str(place)) is not None


def normal(text: object) -> str:
    """The URL in one form, `s3://bucket/prefix`, also of a Path that has lost a slash.

    Raises BadStore for what names no bucket, or another kind of store.
    """
    match = _URL.fullmatch(str(text))
    scheme, rest = match.groups() if match else ("", "")
    path = "/".join(part for part in rest.split("/") if part)
    if scheme not in SCHEMES:
        raise BadStore(str(text), f"there is no support for {scheme}:", "a folder, or s3://BUCKET/PREFIX")
    if not path or {".", ".."} & set(path.split("/")) or not path.isprintable():
        raise BadStore(str(text), "it names no bucket", "s3://BUCKET/PREFIX")
    return f"{scheme}://{path}"


def endpoint() -> str:
    """Where S3 is, as the environment says; empty: at Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


class Store:
    """The objects of the URL. Every method raises StoreAway when the store stays away, BadStore when it refuses."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        """Open no connection yet. Raises BadStore where the client or credentials are missing."""
        self.url = url
        self._client = _client(url, patience, endpoint(), os.getpid())

    def listing(self, prefix: str = "") -> dict[str, Stat]:
        """Every object whose key begins with the folders of `prefix`, such as `artifacts/sae`."""
        import obstore

        with _said(self.url):
            return {
                meta["path"]: Stat(meta["size"], meta["e_tag"] or "", meta["last_modified"])
                for batch in obstore.list(self._client, prefix or None)
                for meta in batch
            }

    def read(self, key: str) -> tuple[bytes, str] | None:
        """(bytes, etag) of a small object; None if there is none."""
        import obstore

        with _said(self.url):
            try:
                got = obstore.get(self._client, key)
                return bytes(got.bytes()), got.meta["e_tag"] or ""
            except FileNotFoundError as error:
                _raise_for_bucket(self.url, error)
                return None

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object if there is none; whether that was done, or was done by somebody with the same bytes."""
        import obstore

        with _said(self.url):
            try:
                obstore.put(self._client, key, data, mode="create")
            except obstore.exceptions.AlreadyExistsError:
                # By another, or by ourselves: the answer to the first try may have been lost.
                return self._holds(key, data)
        return True

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Write a small object if it is the one with this etag; whether it holds `data` now."""
        import obstore

        with _said(self.url):
            try:
                obstore.put(self._client, key, data, mode={"e_tag": etag})
            except obstore.exceptions.PreconditionError:
                return self._holds(key, data)
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        found = self.read(key)
        return found is not None and found[0] == data

    def write(self, key: str, source: bytes | Path) -> None:
        """Write an object, whatever is there; a file goes up in parts, and nobody sees a part of it."""
        import obstore

        with _said(self.url):
            obstore.put(self._client, key, source, chunk_size=_PART, max_concurrency=4)

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of an object. Raises ArtifactMissing if there is none."""
        import obstore

        with _said(self.url):
            try:
                for piece in obstore.get(self._client, key).stream(min_chunk_size=1 << 20):
                    yield bytes(piece)
            except FileNotFoundError as error:
                _raise_for_bucket(self.url, error)
                raise ArtifactMissing(f"{self.url}/{key}", "an object") from None

    def digest(self, key: str) -> str:
        """SHA-256 of an object, read to its end. Raises ArtifactMissing if there is none."""
        sha = hashlib.sha256()
        for piece in self.pieces(key):
            sha.update(piece)
        return sha.hexdigest()

    def download(self, key: str, path: Path, size: int, sha256: str) -> None:
        """Write an object to `path`, if its bytes are these; nothing is left there when they are others.

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
        """Give an object another key; whether there was one. The store copies it by itself."""
        import obstore

        with _said(self.url):
            try:
                obstore.copy(self._client, key, to)
            except FileNotFoundError as error:
                _raise_for_bucket(self.url, error)
                return False
            obstore.delete(self._client, key)
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are passed over."""
        import obstore

        if todo := list(keys):
            with _said(self.url):
                obstore.delete(self._client, todo)


@functools.cache
def _client(url: str, patience: float, at: str, process: int) -> S3Store:
    """One client a process: it holds connections, which a forked child may not use."""
    del process
    try:
        from obstore.store import S3Store
    except ImportError:
        raise BadStore(url, "the client obstore is not installed", "it: pip install 'saeuron[s3]'") from None
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if not all(os.environ.get(name) for name in keys) and not any(os.environ.get(name) for name in _SOURCES):
        # The client would go and ask the network for some, for a minute.
        raise BadStore(url, "there are no credentials", f"{' and '.join(keys)} in the environment")
    bucket, _, prefix = url.partition("://")[2].partition("/")
    waiting = timedelta(seconds=min(_READ_TIMEOUT, patience))
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": at.startswith("http://"),
            "connect_timeout": waiting,
            "read_timeout": waiting,
            # Of one request with all its bytes: a shard of a gigabyte may take its time.
            "timeout": timedelta(hours=1),
        },
        retry_config={
            "max_retries": 100,
            "retry_timeout": timedelta(seconds=patience),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    )


@contextmanager
def _said(url: str) -> Iterator[None]:
    """What the client raises, as one of ours."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise BadStore(url, f"the store refuses ({_reason(error)})", "credentials that may use it") from error
    except BaseError as error:
        _raise_for_bucket(url, error)
        if "InvalidAccessKeyId" in str(error) or "SignatureDoesNotMatch" in str(error):
            raise BadStore(url, f"the store refuses ({_reason(error)})", "credentials that may use it") from error
        raise StoreAway(url, _reason(error)) from error


def _raise_for_bucket(url: str, error: Exception) -> None:
    """Raise BadStore if an object is not there because its bucket is not."""
    if "NoSuchBucket" in str(error):
        bucket = url.partition("://")[2].partition("/")[0]
        raise BadStore(url, f"there is no bucket {bucket} at {endpoint() or 'Amazon S3'}", "one that exists") from error


def _reason(error: Exception) -> str:
    """The first line of a client's message, without what it repeats."""
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    status = re.search(r"status code: ([^:\n<]+)", str(error))
    if code or status:
        return " ".join(m[1].strip() for m in (status, code) if m)
    line = str(error).splitlines()[0]
    return line.rpartition(" - ")[2].strip() or type(error).__name__
