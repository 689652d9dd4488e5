"""The workspace: one folder that holds every artifact, record and report of a project.

    workspace.json                     {"format": 1}
    run.json  concepts/                what later commands go by: the configuration, and who joined or left it
    artifacts/<stage>/<id>/            the files of one artifact, and manifest.json, written last
    records/ runs/ pictures/ removals/ reports/ locks/
    damaged/<time>/                    what `saeuron verify --repair` set aside, until `saeuron gc`

An artifact without its manifest does not exist; to forget one, delete its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage import shards
from storage.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    Damaged,
    NotAWorkspace,
    StorageError,
    UnknownArtifact,
    WorkspaceTooNew,
)
from storage.files import read_json, sweep, sync, write_json
from storage.identity import digest, split_id
from storage.locks import lock
from storage.manifests import Manifest, ManifestFile

FORMAT = 1
MARK = "workspace.json"
"""What makes a folder a workspace."""
MANIFEST = "manifest.json"
"""Written last: an artifact without it does not exist."""
_REWRITTEN = "`saeuron verify --repair` rewrites it"
_REMOVED = ".removed"
"""What a manifest is called once its artifact is being deleted."""


class Workspace:
    """A workspace that is open. Holds no handle and no cache: two processes may use one folder at once."""

    def __init__(self, root: Path) -> None:
        """Take `root` as it is; `Workspace.open` is the door that checks it."""
        self.root = root

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @classmethod
    def open(cls, root: Path | str, create: bool = True) -> Workspace:
        """Open the workspace at `root`; make it if the folder is absent or empty and `create` is true.

        Raises NotAWorkspace (absent and not to be made, not a folder, or a folder of something else) and
        WorkspaceTooNew (written in a later format).
        """
        root = Path(root).expanduser().absolute()
        if not (root / MARK).exists():
            if root.exists() and not root.is_dir():
                raise NotAWorkspace(root, "it is a file")
            if not create:
                raise NotAWorkspace(root, "there is no workspace.json" if root.exists() else "there is no such folder")
            # Temporaries are passed over: another process may be making this very workspace now.
            others = [p.name for p in root.iterdir() if not p.name.endswith(".tmp")] if root.exists() else []
            if "artifacts" in others and not (root / MARK).exists():
                raise NotAWorkspace(root, f"its {MARK} is gone; {_REWRITTEN}")
            if others and not (root / MARK).exists():
                raise NotAWorkspace(root, f"it holds other things ({min(others)})")
            write_json(root / MARK, {"format": FORMAT})
        try:
            found = read_json(root / MARK)["format"]
        except (Damaged, KeyError, TypeError):
            raise NotAWorkspace(root, f'its {MARK} is not {{"format": {FORMAT}}}; {_REWRITTEN}') from None
        if not isinstance(found, int) or found > FORMAT:
            raise WorkspaceTooNew(root, found, FORMAT)
        return cls(root)

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
        try:
            for path in [self.locks / f"{name}.lock", *self.locks.glob(f"{name}_*.lock")]:
                if path.exists():
                    with _at_once(path):
                        pass
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the lock `name` if it is not `busy`; says whether it does, and waits for nobody."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                # Parts are looked at, not held: there may be more of them than a process may have files open.
                free = not self.busy(name)
                if free:
                    held.enter_context(_at_once(self.locks / f"{name}.lock"))
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
            files=tuple(_described(folder, name) for name in names),
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=seconds,
        )
        write_sealed(folder / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact and the records of it. Its manifest goes first, so that killed at any point it is no more.

        The manifest is renamed until the rest is gone: `removing` knows by it what a killed process has left.
        """
        folder = self.folder(artifact_id)
        mark = folder / _REMOVED
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
        return sorted(path.name for path in found if split_id(path.name)[0] == path.parent.name)

    def problems(self) -> list[str]:
        """One line for each damaged artifact of the workspace (sizes only; `verify` with `deep` reads the bytes)."""
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
        folder = self.folder(manifest.id)
        for file in manifest.files:
            path = folder / file.name
            if not path.is_file():
                yield ArtifactDamaged(path, f"a file of {file.bytes} bytes", "none")
            elif (size := path.stat().st_size) != file.bytes:
                yield ArtifactDamaged(path, f"{file.bytes} bytes", f"{size}")
            elif deep and (sha := digest(path)) != file.sha256:
                yield ArtifactDamaged(path, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")


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


def _described(folder: Path, name: str) -> ManifestFile:
    path = folder / name
    if not path.is_file():
        raise ArtifactMissing(path, "a file to commit")
    # A shard was hashed as it was written; to read terabytes again would double the cost of a capture.
    sha = shards.read_manifest(path).sha256 if path.suffix == ".tar" and shards.sidecar(path).exists() else digest(path)
    return ManifestFile(name=name, bytes=path.stat().st_size, sha256=sha)


def is_id(text: str) -> bool:
    """Whether the text is an artifact's id."""
    try:
        split_id(text)
    except UnknownArtifact:
        return False
    return True


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object with a seal, the SHA-256 of the rest: one changed letter would still be JSON."""
    write_json(path, {**fields, "seal": _seal(fields)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote; an object without a seal is from before there were any, and is believed.

    Raises ArtifactMissing if there is no file, ArtifactDamaged if it is not as it was written.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ArtifactDamaged(path, "a JSON object", type(fields).__name__)
    seal = fields.pop("seal", None)
    if seal is not None and seal != (found := _seal(fields)):
        raise ArtifactDamaged(path, f"SHA-256 {str(seal)[:12]}…", f"{found[:12]}…")
    return fields


def _seal(fields: Mapping[str, Any]) -> str:
    return digest(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def _at_once(path: Path) -> Iterator[None]:
    """Hold the lock of a file, or raise BlockingIOError if somebody does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
