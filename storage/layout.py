"""The names of a workspace's files and folders. Imports nothing of the workspace itself."""

from __future__ import annotations

from pathlib import Path

from storage.identity import split_id

MARK = "workspace.json"
"""The file that makes a folder a workspace; it holds the number of the format."""
LINK = "remote.json"
"""The file that says which object store a folder is the cache of."""
MANIFEST = "manifest.json"
"""An artifact's manifest. It is written last: an artifact without it does not exist."""
DELETING = ".removed"
"""Name of a manifest while its artifact is being deleted."""


class Layout:
    """Paths below the folder `root` of a workspace. A path is given whether or not it exists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        """One JSON file per run; the view `runs` reads them."""
        self.pictures = root / "pictures"
        """Pictures for people to look at."""
        self.removals = root / "removals"
        """Removals to take away, one file each."""
        self.reports = root / "reports"
        """Reports for people to read."""
        self.locks = root / "locks"
        """Lock files. The kernel knows who holds one; the file does not."""
        self.damaged = root / "damaged"
        """Damaged files that were set aside, in one folder for each repair."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    def folder(self, artifact_id: str) -> Path:
        """The artifact's folder. Raises UnknownArtifact if the text is not an artifact's id."""
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
