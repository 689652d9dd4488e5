"""The workspace: one folder that holds every artifact, run and report of a project.

    workspace.json                     {"format": 3}; migrations.py upgrades older formats
    run.json  concepts/                state for later commands: the configuration, and which concepts joined or left it
    artifacts/<stage>/<id>/            the files of one artifact, and manifest.json, written last
    runs/ pictures/ removals/ reports/ locks/
    damaged/<time>/                    what `saeuron verify --repair` set aside, until `saeuron gc`

An artifact without its manifest does not exist. To forget an artifact, delete its folder.

A workspace may be on an object store, s3://BUCKET/PREFIX. Then this folder is one machine's cache of it
(`remote/backend.py`), an artifact is committed once its manifest is in the store, and its files are fetched when they
are read. `Workspace.backend` hides the difference.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from storage.backend import Backend
from storage.declared import View
from storage.errors import (
    ArtifactMissing,
    Damaged,
    NotAWorkspace,
    OtherFormat,
    StorageError,
)
from storage.files import json_text, read_json, sweep
from storage.identity import split_id
from storage.layout import LINK, MARK, Layout
from storage.locks import at_once, held, lock
from storage.manifests import Manifest, described, listed
from storage.migrations import MIGRATIONS
from storage.migrations import migrate as upgrade
from storage.remote.backend import ObjectStoreBackend, cache_folder
from storage.remote.client import is_url
from storage.seals import read_sealed, write_sealed

FORMAT = 3
_REWRITTEN = "`saeuron verify --repair` rewrites it"

Result = TypeVar("Result")


class Workspace(Layout):
    """An open workspace. It holds no handle and no cache: two processes may use one folder at once."""

    def __init__(self, root: Path) -> None:
        """Take `root` as it is, unchecked; `Workspace.open` checks it. Raises BadStore if its LINK is damaged."""
        super().__init__(root)
        self.backend = ObjectStoreBackend.of(root) if (root / LINK).exists() else Backend(root)
        self.address = self.backend.address
        """The value for `--workspace`: the folder, or the URL."""

    @classmethod
    def open(cls, root: Path | str, create: bool = True, migrate: bool = False) -> Workspace:
        """Open the workspace at `root`; make it if the folder is absent or empty and `create` is true.

        For a URL, refresh and open its cache. With `create` or `migrate`, upgrade a workspace of an older format.

        Raises NotAWorkspace (absent and not to be made, not a folder, or a folder of something else); OtherFormat (a
        later one, one without a migration, or an older one that is only to be read); what `migrations.migrate` raises;
        BadStore and StoreAway for an object store.
        """
        opened = cls(cache_folder(root) if is_url(root) else Path(root).expanduser().absolute())
        root = opened.root
        if not (root / MARK).exists():
            opened._begin(create)
        try:
            found = read_json(root / MARK)["format"]
        except (Damaged, KeyError, TypeError):
            raise NotAWorkspace(root, f'its {MARK} is not {{"format": {FORMAT}}}; {_REWRITTEN}') from None
        if not isinstance(found, int) or found > FORMAT:
            raise OtherFormat(root, found, FORMAT, ": upgrade saeuron, or use another folder")
        if found < FORMAT:
            if found not in MIGRATIONS:
                rest = ", and cannot be converted: use another workspace, or delete this one"
                raise OtherFormat(opened.address, found, FORMAT, rest)
            if not create and not migrate:
                rest = f": bring it up to date with: saeuron verify --repair -w {shlex.quote(opened.address)}"
                raise OtherFormat(opened.address, found, FORMAT, rest)
            upgrade(opened.backend, FORMAT)
        return opened

    def _begin(self, create: bool) -> None:
        """Make the workspace, or say why not."""
        root = self.root
        if root.exists() and not root.is_dir():
            raise NotAWorkspace(root, "it is a file")
        if not create:
            reason = f"there is no {MARK}" if root.exists() else "there is no such folder"
            raise NotAWorkspace(self.address, reason)
        # Temporaries do not count: another process may be making this very workspace now.
        others = [p.name for p in root.iterdir() if not p.name.endswith(".tmp")] if root.exists() else []
        if "artifacts" in others and not (root / MARK).exists():
            raise NotAWorkspace(self.address, f"its {MARK} is gone; {_REWRITTEN}")
        self.backend.begin(json_text({"format": FORMAT}), others)

    # Locks

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the workspace's lock `name` for the length of a `with` block; see `storage.locks.lock`."""
        return lock(self.locks, name)

    def busy(self, name: str) -> bool:
        """Whether a living process holds the lock `name`, or one of its parts, `<name>_<number>`.

        `name` is the id of an artifact or of a run, so it needs no encoding as a file name.
        """
        return held(self.locks / f"{name}.lock", *self.locks.glob(f"{name}_*.lock"))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` unless it is `busy`, without waiting; gives whether it is held."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as holding:
            try:
                # The parts are looked at, not held: there may be more of them than a process may have files open.
                free = not self.busy(name)
                if free:
                    holding.enter_context(at_once(self.locks / f"{name}.lock"))
            except BlockingIOError:
                free = False
            yield free

    @contextmanager
    def living(self, run_id: str) -> Iterator[None]:
        """Show for the length of a `with` block, to this machine and to others, that a run is alive."""
        try:
            with self.lock(run_id), self.backend.lease(run_id):
                yield
        finally:
            # No other run has this id, so nobody can be waiting for the file that goes.
            (self.locks / f"{run_id}.lock").unlink(missing_ok=True)

    def alive(self) -> list[str]:
        """The ids of runs that are `living`, here or on another machine, sorted."""
        here = {path.stem for path in self.runs.glob("*.json") if self.busy(path.stem)}
        # A run of this machine has a lock, which is more exact than its lease.
        return sorted(here | {i for i in self.backend.leases() if not (self.locks / f"{i}.lock").exists()})

    def sweep(self) -> int:
        """Delete the half-written files of killed processes; returns how many. Those of living processes stay."""
        return sweep(self.root)

    # Artifacts

    def commit(
        self,
        artifact_id: str,
        *,
        config: dict[str, Any],
        inputs: dict[str, Any],
        summary: dict[str, Any],
        files: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        seconds: float,
        publishes: Mapping[str, str] | None = None,
        views: Sequence[View] = (),
    ) -> Manifest:
        """Hash the files in the artifact's folder and publish its manifest, last; returns the one that counts.

        `files` are names inside the folder. By default they are all of its files except hidden ones, `*.tmp`, the
        manifest itself and `exclude` (files, or folders with all below them). `publishes` and `views` are kept in the
        manifest. Raises ArtifactMissing if a named file
        is not there, ArtifactDamaged if a shard differs from its sidecar, DiskFull.
        """
        stage, version = split_id(artifact_id)
        folder = self.folder(artifact_id)
        names = sorted(set(files)) if files is not None else listed(folder, exclude)
        manifest = Manifest(
            id=artifact_id,
            stage=stage,
            version=version,
            config=config,
            inputs=inputs,
            summary=summary,
            files=tuple(described(folder, name) for name in names),
            created=self._monotonic_timestamp(),
            seconds=seconds,
            publishes=dict(publishes or {}),
            views=tuple(views),
        )
        return self.backend.publish(manifest)

    def _monotonic_timestamp(self) -> str:
        """The time, or 1 ms after the newest commit of this machine if the clock was set back: the later one counts.

        The file that remembers the newest commit may be lost or damaged.
        """
        newest = self.locks / "newest.json"
        try:
            after = datetime.fromisoformat(read_sealed(newest)["created"]) + timedelta(milliseconds=1)
        except (StorageError, KeyError, TypeError, ValueError):
            after = datetime.min.replace(tzinfo=UTC)
        created = max(datetime.now(UTC), after).isoformat(timespec="milliseconds")
        write_sealed(newest, {"created": created})
        return created

    def resume(self, artifact_id: str) -> None:
        """Upload what a process of this machine finished and could not commit to the object store."""
        self.backend.resume(artifact_id)

    def read(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact, its files unchecked. Raises as `manifest` does."""
        return self.backend.read(artifact_id)

    def manifest(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact, its files' sizes checked.

        Raises ArtifactMissing if it was never committed, ArtifactDamaged if the manifest or a file is not as written.
        """
        manifest = self.read(artifact_id)
        self.backend.check(manifest)
        return manifest

    def has(self, artifact_id: str) -> bool:
        """Whether the artifact is committed and its files have their sizes. Takes about 1 ms a file."""
        try:
            self.manifest(artifact_id)
        except (ArtifactMissing, Damaged):
            return False
        return True

    def fetch(self, artifact_id: str, *names: str) -> Path:
        """The folder of a committed artifact, with its files in it: those in `names` (files or folders), or all.

        A local workspace has them already. On an object store, raises as `read` does, and ObjectDamaged if a file is
        not as the manifest says.
        """
        self.backend.fetch(artifact_id, names)
        return self.folder(artifact_id)

    def whole(self, artifact_id: str, *names: str) -> Path:
        """Fetch files and compare every byte with the manifest's hash. Raises as `manifest` does.

        Use it for inputs of computations: one flipped byte in weights would be in everything that is made from them.
        """
        manifest = self.read(artifact_id)
        self.backend.whole(manifest, names)
        return self.folder(artifact_id)

    def artifacts(self, stage: str | None = None, left_out: list[str] | None = None) -> list[Manifest]:
        """The committed artifacts, of one stage or all, sorted by id. Damaged ones are left out: see `problems`.

        Their ids are added to `left_out`.
        """
        found = []
        for artifact_id in self.known(stage):
            try:
                found.append(self.manifest(artifact_id))
            except StorageError as error:
                # Others were deleted since they were listed, or the object store is away.
                if left_out is not None and isinstance(error, Damaged):
                    left_out.append(artifact_id)
        return found

    def folders(self) -> list[str]:
        """The ids of all artifacts that have a folder, committed or not, or a manifest in the object store, sorted."""
        return self.backend.folders()

    def problems(self) -> list[str]:
        """One line for each damaged artifact. Only sizes are compared; see `storage.verify.damage`."""
        return self.backend.problems()

    def delete(self, artifact_id: str) -> None:
        """Delete an artifact. Killed at any point, the artifact does not exist any more."""
        self.backend.delete(artifact_id)

    # Small files

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file that belongs to no artifact, all or nothing; on an object store first, then here.

        Raises Conflict if another machine has changed it since it was brought here, DiskFull.
        """
        self.backend.write(path, data)

    def agreed(self, change: Callable[[], Result]) -> Result:
        """Do `change`, which reads and `write`s small files; do it again if another machine changed them meanwhile."""
        return self.backend.agreed(change)

    def share(self, path: Path) -> None:
        """Put a file for people on the object store as well, if it lies in this folder."""
        if path.absolute().is_relative_to(self.root):
            self.backend.share(path.absolute())

    def unlink(self, path: Path) -> None:
        """Delete a small file, or a folder of small files, on the object store as well."""
        self.backend.unlink(path)


def locate(place: Path | str) -> Path:
    """The folder of a workspace that was given as a folder or a URL. If it is a cache, it is refreshed.

    Raises BadStore (the URL, the credentials, the bucket, or a client that is not installed) and StoreAway.
    """
    if is_url(place):
        return cache_folder(place)
    Workspace(Path(place).expanduser().absolute()).backend.refresh()
    return Path(place)
