"""The S3 client: URLs, credentials and errors.

Endpoint, region and credentials come from the environment alone (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN). docs/adr/0006 says why obstore.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from storage.errors import BadStore, StoreAway

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEMES = ("s3",)
"""Only S3 is tested."""
PATIENCE = 60.0
"""Seconds for which a request is retried while the store does not answer."""
PROBE = 4.0
"""The same for the first request of a command, so that a wrong endpoint is reported at once."""
_READ_TIMEOUT = 20.0
"""Seconds without a byte after which an answer counts as lost."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")
_CREDENTIAL_SOURCES = (
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_METADATA_ENDPOINT", "AWS_SKIP_SIGNATURE"),
)
"""Variables that give credentials without a pair of keys."""


def is_url(place: object) -> bool:
    """Whether it is a URL and not a folder. A Path made from a URL has lost a slash, and still counts as one."""
    return _URL.fullmatch(str(place)) is not None


def normal_url(text: object) -> str:
    """The URL as `s3://bucket/prefix`, also from a Path that has lost a slash.

    Raises BadStore if it names no bucket, or another kind of store.
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
    """The S3 endpoint from the environment; empty means Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@functools.cache
def client(url: str, patience: float, at: str, process: int) -> S3Store:
    """The client for a URL, one per process: it holds connections, which a forked child may not use.

    Raises BadStore where obstore or credentials are missing.
    """
    del process
    try:
        from obstore.store import S3Store
    except ImportError:
        raise BadStore(url, "the client obstore is not installed", "it: pip install 'saeuron[s3]'") from None
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if not all(os.environ.get(name) for name in keys) and not any(os.environ.get(name) for name in _CREDENTIAL_SOURCES):
        # The client would ask the network for credentials, for a minute.
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
            # For one request with all its bytes: a shard may hold a gigabyte.
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
def requests(url: str) -> Iterator[Any]:
    """The module obstore. Its errors become BadStore (the store refuses) or StoreAway (it does not answer)."""
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield obstore
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise BadStore(url, f"the store refuses ({_reason(error)})", "credentials that may use it") from error
    except BaseError as error:
        raise_for_bucket(url, error)
        if "InvalidAccessKeyId" in str(error) or "SignatureDoesNotMatch" in str(error):
            raise BadStore(url, f"the store refuses ({_reason(error)})", "credentials that may use it") from error
        raise StoreAway(url, _reason(error)) from error


def raise_for_bucket(url: str, error: Exception) -> None:
    """Raise BadStore if an object is missing because its bucket is."""
    if "NoSuchBucket" in str(error):
        bucket = url.partition("://")[2].partition("/")[0]
        raise BadStore(url, f"there is no bucket {bucket} at {endpoint() or 'Amazon S3'}", "one that exists") from error


def _reason(error: Exception) -> str:
    """The first line of a client's message, without its repetitions."""
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    status = re.search(r"status code: ([^:\n<]+)", str(error))
    if code or status:
        return " ".join(m[1].strip() for m in (status, code) if m)
    line = str(error).splitlines()[0]
    return line.rpartition(" - ")[2].strip() or type(error).__name__
