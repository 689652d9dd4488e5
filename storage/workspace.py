"""The workspace: one folder that holds every artifact, record and report of a project.

    workspace.json                     {"format": 2}; from an older one: migrations.py
    run.json  concepts/                what later commands go by: the configuration, and who joined or left it
    artifacts/<stage>/<id>/            the files of one artifact, and manifest.json, written last
    records/ runs/ pictures/ removals/ reports/ locks/
    damaged/<time>/                    what `saeuron verify --repair` set aside, until `saeuron gc`

An artifact without its manifest does not exist; to forget one, delete its folder.

A workspace may be on an object store, s3://BUCKET/PREFIX: then this folder is one machine's cache of it (`mirror.py`),
an artifact is committed once its manifest is there, and its files are `fetch`ed when they are read.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from storage.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    Damaged,
    NotAWorkspace,
    StorageError,
    WorkspaceTooNew,
    WorkspaceTooOld,
)
from storage.files import json_text, read_json, sweep, sync, write_atomic
from storage.identity import digest, split_id
from storage.identity import is_id as is_id
from storage.locks import at_once, held, lock
from storage.manifests import MANIFEST as MANIFEST
from storage.manifests import Manifest, described, listed, within
from storage.remote.store import is_url
from storage.seals import read_sealed as read_sealed
from storage.seals import write_sealed as write_sealed

if TYPE_CHECKING:
    from storage.remote.mirror import Mirror

FORMAT = 2
MARK = "workspace.json"
"""What makes a folder a workspace."""
_REWRITTEN = "`saeuron verify --repair` rewrites it"
_REMOVED = ".removed"
"""What a manifest is called once its artifact is being deleted."""
LINK = "remote.json"
"""In a folder that is the cache of a workspace on an object store."""

Result = TypeVar("Result")


class Workspace:
    """A workspace that is open. Holds no handle and no cache: two processes may use one folder at once."""

    def __init__(self, root: Path) -> None:
        """Take `root` as it is; `Workspace.open` is the door that checks it."""
        self.root = root

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @classmethod
    def open(cls, root: Path | str, create: bool = True, migrate: bool = False) -> Workspace:
        """Open the workspace at `root`; make it if the folder is absent or empty and `create` is true.

        Of a URL the cache is opened, after it was brought up to date. With `create` or `migrate`, a workspace of an
        older format is brought to this one.

        Raises NotAWorkspace (absent and not to be made, not a folder, or a folder of something else), WorkspaceTooNew
        (written in a later format), WorkspaceTooOld (in an older one, and only to be read), what `migrations.migrate`
        raises, and what `storage.remote.mirror.place` does.
        """
        if is_url(root):
            from storage.remote.mirror import place

            root = place(root)
        root = Path(root).expanduser().absolute()
        remote = cls(root).remote
        if not (root / MARK).exists():
            if root.exists() and not root.is_dir():
                raise NotAWorkspace(root, "it is a file")
            if not create:
                reason = "there is no workspace.json" if root.exists() else "there is no such folder"
                raise NotAWorkspace(remote.url if remote else root, reason)
            # Temporaries are passed over: another process may be making this very workspace now.
            others = [p.name for p in root.iterdir() if not p.name.endswith(".tmp")] if root.exists() else []
            if "artifacts" in others and not (root / MARK).exists():
                raise NotAWorkspace(remote.url if remote else root, f"its {MARK} is gone; {_REWRITTEN}")
            if remote:
                remote.begin(json_text({"format": FORMAT}))
            elif others and not (root / MARK).exists():
                raise NotAWorkspace(root, f"it holds other things ({min(others)})")
            write_atomic(root / MARK, json_text({"format": FORMAT}))
        try:
            found = read_json(root / MARK)["format"]
        except (Damaged, KeyError, TypeError):
            raise NotAWorkspace(root, f'its {MARK} is not {{"format": {FORMAT}}}; {_REWRITTEN}') from None
        if not isinstance(found, int) or found > FORMAT:
            raise WorkspaceTooNew(root, found, FORMAT)
        opened = cls(root)
        if found < FORMAT:
            if not create and not migrate:
                raise WorkspaceTooOld(opened.address, found, FORMAT)
            from storage.migrations import migrate as bring

            bring(opened, FORMAT)
        return opened

    @functools.cached_property
    def remote(self) -> Mirror | None:
        """The object store that this folder is the cache of, if it is; nothing is asked of it yet."""
        if not (self.root / LINK).exists():
            return None
        from storage.remote.mirror import Mirror

        return Mirror.of(self.root)

    @property
    def address(self) -> str:
        """What `--workspace` takes: the folder, or the URL."""
        return self.remote.url if self.remote else str(self.root)

    @property
    def records(self) -> Path:
        """Small records that tasks leave for one another."""
        return self.root / "records"

    @property
    def runs(self) -> Path:
        """One JSON file per run; the view `runs` reads them."""
        return self.root / "runs"

    @property
    def pictures(self) -> Path:
        """Pictures for people to look at."""
        return self.root / "pictures"

    @property
    def removals(self) -> Path:
        """Removals to take away, one file each."""
        return self.root / "removals"

    @property
    def reports(self) -> Path:
        """Reports for people to read."""
        return self.root / "reports"

    @property
    def locks(self) -> Path:
        """Lock files; who holds one is the kernel's knowledge, not the file's."""
        return self.root / "locks"

    @property
    def damaged(self) -> Path:
        """What was set aside because it is damaged, by the time of that."""
        return self.root / "damaged"

    def folder(self, artifact_id: str) -> Path:
        """The artifact's folder, there or not. Raises UnknownArtifact if the text is no artifact id."""
        stage, _ = split_id(artifact_id)
        return self.root / "artifacts" / stage / artifact_id

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the workspace's lock `name` for the length of a `with` block; see `storage.locks.lock`."""
        return lock(self.locks, name)

    def busy(self, name: str) -> bool:
        """Whether a living process holds the lock `name`, or one of its parts, `<name>_<number>`.

        `name` is an id, of an artifact or of a run: nothing in it needs the encoding of `storage.locks`.
        """
        return held(self.locks / f"{name}.lock", *self.locks.glob(f"{name}_*.lock"))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` if it is not `busy`; says whether it does, and waits for nobody."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as holding:
            try:
                # Parts are looked at, not held: there may be more of them than a process may have files open.
                free = not self.busy(name)
                if free:
                    holding.enter_context(at_once(self.locks / f"{name}.lock"))
            except BlockingIOError:
                free = False
            yield free

    def sweep(self) -> int:
        """Remove what killed processes were in the middle of writing; how many files. Those of the living stay."""
        return sweep(self.root)

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
    ) -> Manifest:
        """Publish what lies in the artifact's folder: hash its files and write the manifest, last.

        `files` are names inside the folder; left out, they are all of its files but hidden ones, `*.tmp`, the
        manifest itself and what `exclude` names (a file, or a folder with all below it). Raises ArtifactMissing if a
        named file is not there, ArtifactDamaged if a shard is not as its sidecar says, DiskFull.
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
            created=self._now(),
            seconds=seconds,
        )
        if self.remote:
            return self.remote.artifacts.publish(manifest)
        write_sealed(folder / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def _now(self) -> str:
        """The time, but after that of whatever was committed here before: of two artifacts the later one counts.

        So a clock that is set back changes no answer. What is remembered for that may be lost or damaged.
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
        """Upload what was finished here and could not be committed to the object store; locally nothing is to do."""
        if self.remote:
            self.remote.artifacts.resume(artifact_id)

    def fetch(self, artifact_id: str, *names: str) -> Path:
        """The folder of a committed artifact, with its files there to read: `names` (files or folders), or all.

        A local workspace has them. Raises as `read` does; ObjectDamaged if one is not as the manifest says.
        """
        if self.remote:
            self.remote.artifacts.fetch(self.read(artifact_id), names)
        return self.folder(artifact_id)

    def bring(self, paths: Iterable[Path]) -> None:
        """Have these files of committed artifacts here; as `fetch`."""
        if not self.remote:
            return
        lacking: dict[str, list[str]] = {}
        for path in paths:
            if not path.exists():
                _, artifact_id, *name = path.relative_to(self.root / "artifacts").parts
                lacking.setdefault(artifact_id, []).append("/".join(name))
        for artifact_id, names in lacking.items():
            self.fetch(artifact_id, *names)

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file of the workspace, which is no artifact's: all or nothing, and in the object store first.

        Raises Conflict if another machine has changed it since it was brought here, DiskFull.
        """
        if self.remote:
            self.remote.write(path, data)
        else:
            write_atomic(path, data)

    def agreed(self, change: Callable[[], Result]) -> Result:
        """Do `change`, which reads and `write`s small files; again if another machine has changed them meanwhile."""
        return self.remote.agreed(change) if self.remote else change()

    def share(self, path: Path) -> None:
        """Put a file for people, which lies in this folder, on the object store as well."""
        if self.remote and path.absolute().is_relative_to(self.root):
            self.remote.share(path.absolute())

    def unlink(self, path: Path) -> None:
        """Delete a small file, or a folder of such, in the object store as well."""
        if self.remote:
            self.remote.unlink(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact and the records of it. Its manifest goes first, so that killed at any point it is no more.

        On an object store it goes first. The manifest is renamed until the rest is gone: `removing` knows by it what a
        killed process has left.
        """
        folder = self.folder(artifact_id)
        mark = folder / _REMOVED
        if self.remote:
            self.remote.artifacts.remove(artifact_id)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            (folder / MANIFEST).replace(mark)
            sync(folder)
        for path in self.records_of(artifact_id):
            path.unlink()
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path != mark:
                path.unlink()
        mark.unlink(missing_ok=True)
        folder.rmdir()

    def removing(self, artifact_id: str) -> bool:
        """Whether the artifact was being deleted by a process that did not come to the end."""
        folder = self.folder(artifact_id)
        return (folder / _REMOVED).exists() and not (folder / MANIFEST).exists()

    def records_of(self, artifact_id: str) -> list[Path]:
        """The records of an artifact and of its parts."""
        return sorted([*self.records.glob(artifact_id), *self.records.glob(f"{artifact_id}_*")])

    def manifest(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact, its files' sizes checked.

        Raises ArtifactMissing if it was never committed, ArtifactDamaged if the manifest or a file is not as written.
        """
        manifest = self.read(artifact_id)
        for problem in self._problems(manifest, deep=False):
            raise problem
        return manifest

    def whole(self, artifact_id: str, *names: str) -> Path:
        """As `fetch`, and the files are read and hashed.

        For what is to be computed with: one flipped byte in weights would otherwise be in all that is made of them.
        Raises as `manifest` does.
        """
        folder, manifest = self.fetch(artifact_id, *names), self.read(artifact_id)
        read = manifest.model_copy(update={"files": tuple(f for f in manifest.files if within(f.name, *names))})
        if self.remote:
            # What lies here is a copy. What is fetched anew is compared with its hash on the way.
            bad = [Path(problem.args[0]) for problem in self._damage(read, deep=True)]
            for path in bad:
                path.unlink(missing_ok=True)
            if bad:
                self.fetch(artifact_id, *names)
            return folder
        for problem in self._damage(read, deep=True):
            raise problem
        return folder

    def has(self, artifact_id: str) -> bool:
        """Whether the artifact is committed and its files have their sizes. Takes about 1 ms a file."""
        try:
            self.manifest(artifact_id)
        except (ArtifactMissing, Damaged):
            return False
        return True

    def verify(self, artifact_id: str, deep: bool = False) -> list[str]:
        """What is wrong with an artifact, one line each; none if it is well. `deep` reads every byte and its hash."""
        try:
            if self.remote:
                return [str(problem) for problem in self.remote.artifacts.damage(artifact_id, deep)]
            manifest = self.read(artifact_id)
        except (ArtifactMissing, Damaged) as error:
            return [str(error)]
        return [str(problem) for problem in self._problems(manifest, deep)]

    def artifacts(self, stage: str | None = None) -> list[Manifest]:
        """The committed artifacts, of one stage or all, sorted by id. Damaged ones are left out: see `problems`."""
        found = (self._read_or_error(artifact_id) for artifact_id in self._ids(stage))
        return [manifest for manifest in found if isinstance(manifest, Manifest)]

    def folders(self) -> list[str]:
        """The ids of all artifacts that have a folder, committed or not, sorted."""
        found = (path for path in (self.root / "artifacts").glob("*/*") if path.is_dir() and is_id(path.name))
        here = {path.name for path in found if split_id(path.name)[0] == path.parent.name}
        return sorted(here | set(self.remote.artifacts.committed() if self.remote else ()))

    def problems(self) -> list[str]:
        """One line for each damaged artifact of the workspace (sizes only; `verify` with `deep` reads the bytes)."""
        if self.remote:
            return self.remote.artifacts.problems()
        found = (self._read_or_error(artifact_id) for artifact_id in self._ids(None))
        return [str(error) for error in found if isinstance(error, StorageError)]

    def _ids(self, stage: str | None) -> list[str]:
        # Only folders with a manifest: one without is work in progress, not damage.
        found = (self.root / "artifacts").glob(f"{stage or '*'}/*/{MANIFEST}")
        return sorted(path.parent.name for path in found)

    def _read_or_error(self, artifact_id: str) -> Manifest | StorageError:
        try:
            return self.manifest(artifact_id)
        except StorageError as error:
            return error

    def read(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact, whatever has become of its files. Raises as `manifest` does."""
        path = self.folder(artifact_id) / MANIFEST
        if self.remote:
            self.remote.artifacts.settle(artifact_id)
        if not path.exists():
            raise ArtifactMissing(artifact_id, f"a manifest in {path.parent}")
        try:
            manifest = Manifest.model_validate(read_sealed(path))
        except ValidationError as error:
            raise ArtifactDamaged(path, "a manifest", f"{error.error_count()} fields that do not fit") from None
        if manifest.id != artifact_id:
            raise ArtifactDamaged(path, f"the manifest of {artifact_id}", f"that of {manifest.id}")
        return manifest

    def _problems(self, manifest: Manifest, deep: bool) -> Iterator[ArtifactDamaged]:
        # On an object store what is here is a part, and `fetch` looks at it; of what is there `settle` has known.
        return iter(()) if self.remote else self._damage(manifest, deep)

    def _damage(self, manifest: Manifest, deep: bool) -> Iterator[ArtifactDamaged]:
        """Of the files in the folder."""
        folder = self.folder(manifest.id)
        for file in manifest.files:
            path = folder / file.name
            if not path.is_file():
                yield ArtifactDamaged(path, f"a file of {file.bytes} bytes", "none")
            elif (size := path.stat().st_size) != file.bytes:
                yield ArtifactDamaged(path, f"{file.bytes} bytes", f"{size}")
            elif deep and (sha := digest(path)) != file.sha256:
                yield ArtifactDamaged(path, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")
