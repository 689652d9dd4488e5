"""A workspace on an object store, as one machine works with it: a folder that is its cache, and the store itself.

    manifests/ artifacts/                          see artifacts.py
    workspace.json run.json concepts/ runs/ removals/ pictures/ reports/    small files, under the names they have here
    leases/<run id>                                a run that is alive
    damaged/<time>/                                what `saeuron verify --repair` set aside

The store is what counts. Writes go there first and to the folder after that. What the folder lacks is fetched when it
is read, and compared with the manifest's SHA-256 on its way. So the folder may be deleted whenever nothing runs: only
unfinished work is lost.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from storage.errors import ArtifactDamaged, ArtifactMissing, BadStore, Conflict, NotAWorkspace, StorageError
from storage.files import read_json, write_atomic, write_json
from storage.identity import digest
from storage.layout import LINK, MARK
from storage.locks import lock
from storage.manifests import parse
from storage.remote.artifacts import RemoteArtifacts, artifact_of, concurrently
from storage.remote.client import PROBE, endpoint, normal_url
from storage.remote.store import Stat, Store

SMALL = (MARK, "run.json", "concepts", "runs", "removals", "pictures", "reports")
"""Files and folders that are kept alike on both sides."""
ATTEMPTS = 5
"""How often a change of small files is attempted when other machines change them too."""
RENEWAL = 60.0
"""Seconds between two renewals of a run's lease."""
LEASE = timedelta(minutes=5)
"""A run on another machine counts as dead when its lease has not been renewed for this long."""
_ETAGS = ".store/seen.json"
"""{key: etag} of the small files and manifests that were brought here."""

Result = TypeVar("Result")


def cache_folder(url: object) -> Path:
    """The folder of this machine that is the cache of the workspace at `url`, refreshed.

    It lies in $SAEURON_CACHE, or in `saeuron` in the user's cache folder. Raises BadStore, StoreAway.
    """
    address = normal_url(url)
    home = os.environ.get("SAEURON_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "saeuron")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("://")[2])[:80]
    root = Path(home).expanduser().absolute() / f"{name}-{digest(f'{endpoint()} {address}'.encode())[:8]}"
    # Before anything is written here: a store that cannot be used leaves no folder.
    Store(address, PROBE).read(MARK)
    if not (root / LINK).exists():
        write_json(root / LINK, {"url": address})
    ObjectStoreBackend.of(root).refresh()
    return root


class ObjectStoreBackend(RemoteArtifacts):
    """A folder and the object store that it is the cache of."""

    @classmethod
    def of(cls, root: Path) -> ObjectStoreBackend:
        """The backend that the folder's LINK names. Raises BadStore if that is damaged."""
        try:
            return cls(root, normal_url(read_json(root / LINK)["url"]))
        except (ArtifactDamaged, KeyError, TypeError):
            raise BadStore(str(root / LINK), "it is damaged", "the cache of a workspace: delete its folder") from None

    def begin(self, mark: bytes, others: Sequence[str]) -> None:
        """Make the workspace in the store. Raises NotAWorkspace if the store holds other things and no workspace."""
        if self.store.read(MARK) is None:
            if objects := sorted(self.store.listing()):
                raise NotAWorkspace(self.address, f"it holds other things ({objects[0]})")
            self.store.create(MARK, mark)
        write_atomic(self.root / MARK, mark)

    def refresh(self) -> None:
        """Bring the small files and manifests here up to date. No other file of an artifact is fetched.

        If objects of an artifact are missing or have another size, its manifest is not kept: the artifact has to be
        made again, as if a file of a local workspace had been lost.
        """
        with self._lock():
            etags, found = self._etags(), self.store.listing()
            targets = {key: at for key in found if (at := self._target(key)) is not None}
            old = [key for key, at in targets.items() if etags.get(key) != found[key].etag or not at.exists()]
            for key in etags.keys() - found.keys():
                if (gone := self._target(key)) is not None:
                    gone.unlink(missing_ok=True)
            now = {key: found[key].etag for key in targets if key not in old}
            for key, got in concurrently(lambda key: (key, self.store.read(key)), old):
                if got is not None:
                    write_atomic(targets[key], got[0])
                    now[key] = got[1]
            for at in {self.manifest_path(artifact_id) for artifact_id in self.known()} - set(targets.values()):
                at.unlink(missing_ok=True)
            for key, at in targets.items():
                if (artifact_id := artifact_of(key)) and not self._complete(artifact_id, at, found):
                    at.unlink(missing_ok=True)
                    now.pop(key, None)
            write_json(self.root / _ETAGS, now)

    def _target(self, key: str) -> Path | None:
        """The place here of a small file or a manifest; None for other objects."""
        parts = key.split("/")
        if ".." in parts or "" in parts:
            return None
        if parts[0] in SMALL:
            return self.root / key
        artifact_id = artifact_of(key)
        return self.manifest_path(artifact_id) if artifact_id else None

    def _complete(self, artifact_id: str, path: Path, found: dict[str, Stat]) -> bool:
        try:
            return not any(self.size_problems(parse(path.read_bytes(), path, artifact_id), found))
        except (OSError, ArtifactDamaged):
            return False

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file, to the store first. Raises Conflict if the store's differs from the one here."""
        key = self._key(path)
        with self._lock():
            mine = path.read_bytes() if path.exists() else None
            got = self.store.read(key) if mine is not None else None
            if got is None:
                done = self.store.create(key, data)
            else:
                done = got[0] == data or (got[0] == mine and self.store.replace(key, data, got[1]))
            if not done:
                raise Conflict(self.address, key)
            write_atomic(path, data)
            # The next refresh learns its etag.
            write_json(self.root / _ETAGS, {**self._etags(), key: ""})

    def agreed(self, change: Callable[[], Result]) -> Result:
        for _ in range(ATTEMPTS - 1):
            try:
                return change()
            except Conflict:
                self.refresh()
        return change()

    def share(self, path: Path) -> None:
        self.store.write(self._key(path), path)

    def unlink(self, path: Path) -> None:
        key = self._key(path)
        if key.split("/")[0] in (*SMALL, "artifacts", "damaged"):
            self.store.delete([*self.store.listing(key), key])
        super().unlink(path)

    def set_aside(self, path: Path, stamp: str) -> None:
        key = self._key(path)
        self.store.move(key, f"damaged/{stamp}/{key}")
        super().set_aside(path, stamp)

    def aside(self) -> dict[str, int]:
        """{stamp: bytes} of what was set aside; the store's bytes where this folder has none."""
        found: dict[str, int] = {}
        for key, stat in self.store.listing("damaged").items():
            stamp = key.split("/")[1]
            found[stamp] = found.get(stamp, 0) + stat.size
        return found | super().aside()

    @contextmanager
    def lease(self, run_id: str) -> Iterator[None]:
        """Hold a lease for the length of a `with` block, renewed by a thread."""
        key, ended = f"leases/{run_id}", threading.Event()

        def renew() -> None:
            while not ended.wait(RENEWAL):
                # If the store is away for a while, those who need it report it.
                with suppress(StorageError):
                    self.store.write(key, b"")

        self.store.write(key, b"")
        threading.Thread(target=renew, name=f"lease of {run_id}", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            with suppress(StorageError):
                self.store.delete([key])

    def leases(self) -> set[str]:
        """The runs, here or elsewhere, whose lease was renewed within LEASE by the store's clock."""
        mark = f"leases/now-{secrets.token_hex(4)}"
        self.store.write(mark, b"")
        found = self.store.listing("leases")
        self.store.delete([mark])
        now = found[mark].modified
        names = (key.removeprefix("leases/") for key, stat in found.items() if now - stat.modified < LEASE)
        return {name for name in names if not name.startswith("now-")}

    def _lock(self) -> AbstractContextManager[None]:
        """Excludes other processes of this machine. Conditional writes alone hold off other machines."""
        return lock(self.locks, "store")

    def _etags(self) -> dict[str, str]:
        try:
            found = read_json(self.root / _ETAGS)
        except (ArtifactMissing, ArtifactDamaged):
            return {}
        return found if isinstance(found, dict) else {}

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
