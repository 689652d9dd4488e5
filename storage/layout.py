"""The names of a workspace's files and folders. Imports nothing of the workspace itself."""

from __future__ import annotations

from pathlib import Path

from storage.identity import is_id, split_id

MARK = "workspace.json"
"""The file that makes a folder a workspace; it holds the number of the format."""
LINK = "remote.json"
"""The file that says which object store a folder is the cache of."""
MANIFEST = "manifest.json"
"""An artifact's manifest. It is written last: an artifact without it does not exist."""
DELETING = ".removed"
"""What a manifest is called while its artifact is being deleted."""


class Layout:
    """Where things lie below the folder `root` of a workspace. A path is given whether or not it exists."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

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
        """Lock files. The kernel knows who holds one; the file does not."""
        return self.root / "locks"

    @property
    def damaged(self) -> Path:
        """Damaged files that were set aside, in one folder for each repair."""
        return self.root / "damaged"

    def folder(self, artifact_id: str) -> Path:
        """The artifact's folder. Raises UnknownArtifact if the text is no artifact id."""
        stage, _ = split_id(artifact_id)
        return self.root / "artifacts" / stage / artifact_id

    def manifest_path(self, artifact_id: str) -> Path:
        """The artifact's manifest."""
        return self.folder(artifact_id) / MANIFEST

    def half_deleted(self, artifact_id: str) -> bool:
        """Whether a process was killed while it deleted the artifact."""
        return (self.folder(artifact_id) / DELETING).exists() and not self.manifest_path(artifact_id).exists()

    def known(self, stage: str | None = None) -> list[str]:
        """The ids of all artifacts, or of one stage's, with a manifest in this folder, sorted."""
        return sorted(path.parent.name for path in (self.root / "artifacts").glob(f"{stage or '*'}/*/{MANIFEST}"))

    def folders(self) -> list[str]:
        """The ids of all artifacts that have a folder, committed or not, sorted."""
        found = (path for path in (self.root / "artifacts").glob("*/*") if path.is_dir() and is_id(path.name))
        return sorted(path.name for path in found if split_id(path.name)[0] == path.parent.name)

    def records_of(self, artifact_id: str) -> list[Path]:
        """The records of an artifact and of its parts."""
        return sorted([*self.records.glob(artifact_id), *self.records.glob(f"{artifact_id}_*")])
