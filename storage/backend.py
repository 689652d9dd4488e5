"""Where a workspace keeps its artifacts and small files: a folder of this machine.

`storage.remote.backend.ObjectStoreBackend` extends it for s3://: there the folder is a cache. All other code calls
the same methods for both, and never asks which one it has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from storage.errors import ArtifactDamaged, ArtifactMissing, NotAWorkspace, StorageError
from storage.files import sync, write_atomic
from storage.identity import is_id, split_id
from storage.layout import DELETING, MARK, Layout
from storage.manifests import Manifest, differences, parse, within
from storage.seals import write_sealed

Result = TypeVar("Result")


class Unfinished(NamedTuple):
    """Objects that no manifest lists: an upload in progress or cut short, or files of a writer who came second."""

    key: str
    """The folder that holds them."""
    bytes: int
    modified: datetime


class Backend(Layout):
    """A workspace in a folder of this machine."""

    def __init__(self, root: Path, address: str = "") -> None:
        super().__init__(root)
        self.address = address or str(root)
        """The value for `--workspace`: the folder, or the URL."""

    def begin(self, mark: bytes, others: Sequence[str]) -> None:
        """Make an empty place a workspace: write its MARK. `others` are the names of what is in the folder.

        Raises NotAWorkspace if the place holds other things.
        """
        if others and not (self.root / MARK).exists():
            raise NotAWorkspace(self.root, f"it holds other things ({min(others)})")
        write_atomic(self.root / MARK, mark)

    def refresh(self) -> None:
        """Bring the small files and manifests in this folder up to date."""

    # Artifacts

    def read(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact, its files unchecked. Raises ArtifactMissing, ArtifactDamaged."""
        path = self.manifest_path(artifact_id)
        if not path.exists():
            raise ArtifactMissing(artifact_id, f"a manifest in {path.parent}")
        return parse(path.read_bytes(), path, artifact_id)

    def stored(self, artifact_id: str) -> Manifest:
        """Like `read`, but from the place that counts, not from a cache."""
        return self.read(artifact_id)

    def publish(self, manifest: Manifest) -> Manifest:
        """Commit an artifact whose files lie in its folder; returns the manifest that counts."""
        write_sealed(self.manifest_path(manifest.id), manifest.model_dump(mode="json"))
        return manifest

    def resume(self, artifact_id: str) -> None:
        """Publish what a process of this machine finished and could not upload."""

    def fetch(self, artifact_id: str, names: Sequence[str]) -> None:
        """Have an artifact's files in its folder: those in `names` (files or folders), or all if there are none."""

    def bring(self, paths: Iterable[Path]) -> None:
        """Have these files of artifacts in their folders. A local workspace never iterates over `paths`."""

    def check(self, manifest: Manifest) -> None:
        """Raise ArtifactDamaged if a file of the artifact is missing or has another size."""
        for problem in differences(self.folder(manifest.id), manifest.files):
            raise problem

    def whole(self, manifest: Manifest, names: Sequence[str]) -> None:
        """Raise ArtifactDamaged if a file of the artifact, as in `fetch`, has other bytes than its manifest says."""
        files = [file for file in manifest.files if within(file.name, *names)]
        for problem in differences(self.folder(manifest.id), files, lambda name: True):
            raise problem

    def damage(self, manifest: Manifest, deep: bool) -> Iterator[ArtifactDamaged]:
        """Damage of an artifact at the place that counts: of sizes and JSON, with `deep` of every byte."""
        yield from differences(self.folder(manifest.id), manifest.files, lambda name: deep or name.endswith(".json"))

    def problems(self) -> list[str]:
        """One line for each damaged artifact. Sizes only."""
        lines = []
        for artifact_id in self.known():
            try:
                self.check(self.read(artifact_id))
            except StorageError as error:
                lines.append(str(error))
        return lines

    def folders(self) -> list[str]:
        """The ids of all artifacts that have a folder, committed or not, sorted."""
        found = (path for path in (self.root / "artifacts").glob("*/*") if path.is_dir() and is_id(path.name))
        return sorted(path.name for path in found if split_id(path.name)[0] == path.parent.name)

    def delete(self, artifact_id: str) -> None:
        """Delete an artifact, the manifest first: killed at any point, the artifact is gone.

        The manifest is renamed until the rest is gone; `half_deleted` recognizes by it what a killed process left.
        """
        folder = self.folder(artifact_id)
        mark, manifest = folder / DELETING, self.manifest_path(artifact_id)
        folder.mkdir(parents=True, exist_ok=True)
        if manifest.exists():
            manifest.replace(mark)
            sync(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path != mark:
                path.unlink()
        mark.unlink(missing_ok=True)
        folder.rmdir()

    # Small files

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file, all or nothing. Raises Conflict if another machine changed it, DiskFull."""
        write_atomic(path, data)

    def agreed(self, change: Callable[[], Result]) -> Result:
        """Do `change`, which reads and `write`s small files; do it again if another machine changed them meanwhile."""
        return change()

    def share(self, path: Path) -> None:
        """Show a file that was just written in this folder to other machines as well. The last one counts."""

    def unlink(self, path: Path) -> None:
        """Delete a small file, or a folder of small files."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    # Runs

    def lease(self, run_id: str) -> AbstractContextManager[None]:
        """Tell other machines for the length of a `with` block that a run is alive. This machine has its lock."""
        return nullcontext()

    def leases(self) -> set[str]:
        """The runs that have a lease."""
        return set()

    # Upkeep

    def set_aside(self, path: Path, stamp: str) -> None:
        """Move a file or a folder to the same place below `damaged/<stamp>/`."""
        target = self.damaged / stamp / path.relative_to(self.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        sync(target.parent)
        sync(path.parent)

    def aside(self) -> dict[str, int]:
        """{stamp: bytes} of what was set aside."""
        return {top.name: size(top) for top in self.damaged.glob("*")}

    def uncommit(self, artifact_id: str, stamp: str) -> None:
        """Set an artifact's manifest and its damaged objects aside, where they are elsewhere than in this folder."""

    def mendable(self, artifact_id: str, errors: Sequence[ArtifactDamaged]) -> bool:
        """Whether the folder holds whole copies of all damaged objects of an artifact."""
        return False

    def mend(self, artifact_id: str, path: Path, stamp: str) -> None:
        """Set a damaged object aside and upload it again from its whole copy at `path`."""

    def stale(self, manifest: Manifest, deep: bool) -> list[Path]:
        """Copies in the folder that differ from their objects. They are fetched again when they are read."""
        return []

    def unfinished(self) -> list[Unfinished]:
        """Objects that no manifest lists."""
        return []


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)
