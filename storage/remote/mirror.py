"""A workspace on an object store, as one machine works with it: a folder that is its cache, and the store itself.

    manifests/<id>.json                            the commit point: written once, by a conditional write, last
    artifacts/<stage>/<id>/<payload>/<file>        what it lists; <payload> is a hash of the list, so that two writers
                                                   with different bytes never write into one another
    workspace.json run.json concepts/ runs/ removals/ pictures/ reports/    small files, under the names they have here
    leases/<run id>                                a run that is alive
    damaged/<time>/                                what `saeuron verify --repair` set aside

The store is what counts. What is written goes there first and to the folder after that; what the folder lacks comes
from there when it is read, and is compared with the manifest's SHA-256 on its way. So the folder may be deleted
whenever nothing runs: only work that was not finished is lost.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from storage.errors import ArtifactDamaged, ArtifactMissing, BadStore, Conflict, NotAWorkspace
from storage.files import read_json, write_atomic, write_json
from storage.identity import digest
from storage.locks import lock
from storage.remote.artifacts import RemoteArtifacts, each, id_of, parsed
from storage.remote.store import PROBE, Stat, Store, endpoint, is_url, normal
from storage.workspace import LINK, MARK, Workspace

SMALL = (MARK, "run.json", "concepts", "runs", "removals", "pictures", "reports")
"""What is kept alike on both sides."""
TRIES = 5
"""How often a change of a small file is begun again because another machine was quicker."""
LEASE = timedelta(minutes=5)
"""After this time without a sign a run on another machine counts as dead."""
_SEEN = ".store/seen.json"
"""{key: etag} of what was brought here."""

Result = TypeVar("Result")


def place(url: object) -> Path:
    """The folder of this machine that is the cache of the workspace at `url`, brought up to date.

    It lies in $SAEURON_CACHE, or in `saeuron` in the user's cache folder. Raises BadStore, StoreAway.
    """
    address = normal(url)
    home = os.environ.get("SAEURON_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "saeuron")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("://")[2])[:80]
    root = Path(home).expanduser().absolute() / f"{name}-{digest(f'{endpoint()} {address}'.encode())[:8]}"
    # Before anything is written here: a store that cannot be used leaves no folder.
    Store(address, PROBE).read(MARK)
    if not (root / LINK).exists():
        write_json(root / LINK, {"url": address})
    Mirror.of(root).pull()
    return root


def locate(workspace: Path | str) -> Path:
    """The folder of a workspace that was given as a folder or a URL; a cache is brought up to date.

    Raises BadStore (the URL, the credentials, the bucket, or a client that is not installed) and StoreAway.
    """
    if is_url(workspace):
        return place(workspace)
    root = Path(workspace)
    if remote := Workspace(root.expanduser().absolute()).remote:
        remote.pull()
    return root


class Mirror:
    """The folder `root` and the store that it is the cache of."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.artifacts = RemoteArtifacts(root, url)

    @classmethod
    def of(cls, root: Path) -> Mirror:
        """By what the folder says of itself. Raises BadStore if that is damaged."""
        try:
            return cls(root, normal(read_json(root / LINK)["url"]))
        except (ArtifactDamaged, KeyError, TypeError):
            raise BadStore(str(root / LINK), "it is damaged", "the cache of a workspace: delete its folder") from None

    @property
    def store(self) -> Store:
        """The store; nothing is asked of it yet."""
        return self.artifacts.store

    def pull(self) -> None:
        """Bring the small files and the manifests up to date. Nothing else of an artifact is fetched.

        The manifest of an artifact whose objects are not all there, with their sizes, is not kept: it has to be made
        again, as if a file of a local workspace had been lost.
        """
        with self._still():
            seen, found = self._seen(), self.store.listing()
            targets = {key: at for key in found if (at := self._target(key)) is not None}
            old = [key for key, at in targets.items() if seen.get(key) != found[key].etag or not at.exists()]
            for key in seen.keys() - found.keys():
                if (gone := self._target(key)) is not None:
                    gone.unlink(missing_ok=True)
            now = {key: found[key].etag for key in targets if key not in old}
            for key, got in each(lambda key: (key, self.store.read(key)), old):
                if got is not None:
                    write_atomic(targets[key], got[0])
                    now[key] = got[1]
            for at in set((self.root / "artifacts").glob("*/*/manifest.json")) - set(targets.values()):
                at.unlink(missing_ok=True)
            for key, at in targets.items():
                if (artifact_id := id_of(key)) and not self._whole(artifact_id, at, found):
                    at.unlink(missing_ok=True)
                    now.pop(key, None)
            write_json(self.root / _SEEN, now)

    def _target(self, key: str) -> Path | None:
        """Where an object belongs here; None if it is fetched when it is read, or is none of ours."""
        parts = key.split("/")
        if ".." in parts or "" in parts:
            return None
        if parts[0] in SMALL:
            return self.root / key
        artifact_id = id_of(key)
        return self.artifacts.manifest_path(artifact_id) if artifact_id else None

    def _whole(self, artifact_id: str, path: Path, found: dict[str, Stat]) -> bool:
        try:
            return self.artifacts.whole(parsed(path.read_bytes(), path, artifact_id), found)
        except (OSError, ArtifactDamaged):
            return False

    def begin(self, data: bytes) -> None:
        """Make the workspace in the store. Raises NotAWorkspace if other things are there, and no workspace."""
        if self.store.read(MARK) is None:
            if others := sorted(self.store.listing()):
                raise NotAWorkspace(self.url, f"it holds other things ({others[0]})")
            self.store.create(MARK, data)

    def write(self, path: Path, data: bytes) -> None:
        """Write a small file, to the store first. Raises Conflict if it is not there as it is here."""
        key = self._key(path)
        with self._still():
            mine = path.read_bytes() if path.exists() else None
            got = self.store.read(key) if mine is not None else None
            if got is None:
                done = self.store.create(key, data)
            else:
                done = got[0] == data or (got[0] == mine and self.store.replace(key, data, got[1]))
            if not done:
                raise Conflict(self.url, key)
            write_atomic(path, data)
            # That it is there is known from now on, and by which etag when it is brought again.
            write_json(self.root / _SEEN, {**self._seen(), key: ""})

    def share(self, path: Path) -> None:
        """Upload a file for people that was just written here; the last one counts."""
        self.store.write(self._key(path), path)

    def agreed(self, change: Callable[[], Result]) -> Result:
        """Do what reads and writes small files; again, from what is there now, if another machine was quicker."""
        for _ in range(TRIES - 1):
            try:
                return change()
            except Conflict:
                self.pull()
        return change()

    def unlink(self, path: Path) -> None:
        """Delete what stands in the store under the name of a file or folder here."""
        key = self._key(path)
        if key.split("/")[0] in (*SMALL, "artifacts", "damaged"):
            self.store.delete([*self.store.listing(key), key])

    def set_aside(self, path: Path, stamp: str) -> None:
        """Move what stands in the store under the name of a file here below `damaged/<stamp>/`."""
        key = self._key(path)
        self.store.move(key, f"damaged/{stamp}/{key}")

    def aside(self) -> dict[str, int]:
        """{stamp: bytes} of what was set aside in the store."""
        found: dict[str, int] = {}
        for key, stat in self.store.listing("damaged").items():
            stamp = key.split("/")[1]
            found[stamp] = found.get(stamp, 0) + stat.size
        return found

    def hold(self, run_id: str) -> None:
        """Say that a run is alive."""
        self.store.write(f"leases/{run_id}", b"")

    def release(self, run_id: str) -> None:
        """Say that it has ended."""
        self.store.delete([f"leases/{run_id}"])

    def alive(self) -> list[str]:
        """The runs, here or elsewhere, that have said within LEASE that they are alive, by the store's clock."""
        mark = f"leases/now-{secrets.token_hex(4)}"
        self.store.write(mark, b"")
        found = self.store.listing("leases")
        self.store.delete([mark])
        now = found[mark].modified
        names = [key.removeprefix("leases/") for key, stat in found.items() if now - stat.modified < LEASE]
        return sorted(name for name in names if not name.startswith("now-"))

    def _still(self) -> AbstractContextManager[None]:
        """Between the processes of this machine; other machines are held off by conditional writes alone."""
        return lock(self.root / "locks", "store")

    def _seen(self) -> dict[str, str]:
        try:
            found = read_json(self.root / _SEEN)
        except (ArtifactMissing, ArtifactDamaged):
            return {}
        return found if isinstance(found, dict) else {}

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
