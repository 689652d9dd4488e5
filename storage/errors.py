"""The errors of storage.

    StorageError
    ├── UserError             a mistake that the user can correct; never retried
    │   ├── NotAWorkspace
    │   ├── OtherFormat
    │   ├── BadQuery
    │   ├── BadTable
    │   ├── BadStore
    │   └── UnknownArtifact
    ├── ArtifactMissing
    ├── Damaged
    │   └── ArtifactDamaged
    │       └── ObjectDamaged
    ├── DiskFull
    ├── StoreAway
    └── Conflict

Each message is one line: what, the value, what was expected, what to do. The constructors take the parts, not the
text, and keep them in `args`, so that every error survives a trip between processes.
"""

from __future__ import annotations

import shlex
from pathlib import Path


class StorageError(Exception):
    """The base of all errors that `storage` raises."""


class UserError(StorageError):
    """A mistake that the user can correct. Retrying changes nothing."""


class NotAWorkspace(UserError):
    """The folder is not a workspace. `reason` says what was found instead."""

    def __init__(self, root: Path | str, reason: str) -> None:
        super().__init__(str(root), reason)

    def __str__(self) -> str:
        root, reason = self.args
        return (
            f"{root} is not a workspace: {reason}; expected a folder with workspace.json, "
            f"which `saeuron run --workspace DIR` makes in an empty folder"
        )


class OtherFormat(UserError):
    """The workspace has another format than this version writes. `rest` ends the message: what is wrong, what to do."""

    def __init__(self, root: Path | str, found: int, known: int, rest: str) -> None:
        super().__init__(str(root), found, known, rest)

    def __str__(self) -> str:
        root, found, known, rest = self.args
        return f"workspace {root} has format {found}, expected {known}{rest}"


class BadQuery(UserError):
    """The SQL was refused, failed, or asked for too much."""


class BadTable(UserError):
    """A stage's file does not have the columns that the stage declares for it, or its view has the name of another."""


class BadStore(UserError):
    """The URL, the credentials or the installation do not allow a workspace on an object store."""

    def __init__(self, url: str, found: str, expected: str) -> None:
        super().__init__(url, found, expected)

    def __str__(self) -> str:
        url, found, expected = self.args
        return f"{url} cannot be a workspace: {found}; expected {expected}"


class UnknownArtifact(UserError):
    """The text is not an artifact id."""

    def __init__(self, artifact_id: str) -> None:
        super().__init__(artifact_id)

    def __str__(self) -> str:
        return (
            f"{self.args[0]!r} is not an artifact id; expected <stage>_v<version>_<20 hex digits>, "
            f"as in the first column of each view of `saeuron sql`"
        )


class ArtifactMissing(StorageError):
    """A file or an artifact that should be there is not (its manifest, the commit point, does not exist)."""

    def __init__(self, what: Path | str, expected: str = "its manifest") -> None:
        super().__init__(str(what), expected)

    def __str__(self) -> str:
        what, expected = self.args
        return f"{what} is missing: expected {expected}; run again to make it"


class Damaged(StorageError):
    """Stored bytes are not the bytes that were written."""


class ArtifactDamaged(Damaged):
    """`file` of an artifact is not as its manifest says."""

    def __init__(self, file: Path | str, expected: str, found: str) -> None:
        super().__init__(str(file), expected, found)

    def __str__(self) -> str:
        file, expected, found = self.args
        return f"{file} is damaged: expected {expected}, found {found}; mend it with: saeuron verify --deep --repair"


class ObjectDamaged(ArtifactDamaged):
    """`file`, an object of the workspace at `url`, is not as its manifest says. Running again does not replace it."""

    def __init__(self, file: Path | str, expected: str, found: str, url: str) -> None:
        super(ArtifactDamaged, self).__init__(str(file), expected, found, url)

    def __str__(self) -> str:
        file, expected, found, url = self.args
        return (
            f"{file} in {url} is damaged: expected {expected}, found {found}; "
            f"mend it with: saeuron verify --deep --repair -w {shlex.quote(url)}"
        )


class StoreAway(StorageError):
    """The object store at `url` does not answer, or answers with an error."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)

    def __str__(self) -> str:
        url, reason = self.args
        return f"{url} does not answer ({reason}); finished work is kept: run again when it does"


class Conflict(StorageError):
    """Another machine has changed the object `name` since it was read."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)

    def __str__(self) -> str:
        url, name = self.args
        return f"{name} in {url} was changed by another machine meanwhile; nothing was overwritten: run again"


class DiskFull(StorageError):
    """No room to write `path`. `needed` is the least number of bytes that it takes; 0 if unknown."""

    def __init__(self, path: Path | str, needed: int) -> None:
        super().__init__(str(path), needed)

    def __str__(self) -> str:
        path, needed = self.args
        size = f": it needs at least {needed} bytes" if needed else ""
        return f"no room to write {path}{size}; free some space and run again: the next run continues from here"
