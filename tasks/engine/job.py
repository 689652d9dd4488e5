"""A job and what comes of it: its identity, the artifact's folder, the commit.

A job holds a configuration and the ids of its inputs. The id of what it makes is a hash of these and of the stage's
version, an integer that is raised by hand when the stage's meaning changes.
"""

import functools
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from storage import Workspace
from storage.errors import StorageError
from storage.files import read_json, write_json
from storage.identity import artifact_id
from storage.verify import ids_in
from tasks.engine.worker import Worker


class Job(BaseModel):
    """What one step is to make. Fields named in `excluded_from_id` do not enter its identity: they change no result."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[str]
    version: ClassVar[int]
    excluded_from_id: ClassVar[frozenset[str]] = frozenset()

    workspace: Path
    """Where it reads and writes."""
    device: str = "cpu"
    """Where the model runs."""
    worker: Worker | None = None
    """Set where the step is given to another process: what that must know."""

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.stage

    @functools.cached_property
    def id(self) -> str:
        """The id of the artifact that this job makes."""
        return artifact_id(self.stage, self.version, self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """What the id is a hash of. The kind of device counts (rounding differs), its number does not.

        A model counts by its content, `model_id`, not by where it was found.
        """
        fields = self.model_dump(mode="json", exclude={"workspace", "device", "worker", *self.excluded_from_id})
        if "model_id" in fields:
            del fields["model"]["spec"]
        kind = self.device.split(":")[0]
        return fields if kind == "cpu" else {**fields, "device": kind}

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """{artifact: files or folders of it, none for all} that the step reads: every artifact that a field names."""
        return dict.fromkeys(sorted(ids_in(self.model_dump(mode="json"))), ())

    @property
    def open(self) -> Workspace:
        """The workspace, opened."""
        return Workspace.open(self.workspace)

    @property
    def folder(self) -> Path:
        """Where the artifact's files go."""
        return self.open.folder(self.id)


class Made(BaseModel):
    """What a step returns: never tensors, only where they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """The artifact."""
    summary: dict[str, Any] = {}
    """Its manifest's summary."""
    cached: bool = False
    """Whether it was there before."""
    seconds: float = 0.0
    """What this step took, when it ran; of a cached artifact: what all its steps took."""


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.start, 3)


def note_seconds(job: Job, made: Made, *part: object) -> None:
    """Keep what a part of an artifact took, until `commit`. In a hidden file: times are no part of the result."""
    write_json(job.folder / f".{'_'.join(map(str, part))}.seconds", made.seconds)


def _noted_seconds(folder: Path) -> float:
    """The sum of what the parts took, as far as it was noted; the notes are deleted."""
    total = 0.0
    for path in sorted(folder.glob(".*.seconds")):
        # An estimate: a note that cannot be read counts nothing.
        with suppress(StorageError, TypeError, ValueError):
            total += float(read_json(path))
        path.unlink()
    return round(total, 3)


def commit(job: Job, inputs: Mapping[str, Any], summary: dict[str, Any], clock: Clock, **how: Any) -> Made:
    """Write the manifest of what `job` made, last of all. Its seconds are those of the parts as well."""
    own = clock.seconds
    seconds = round(own + _noted_seconds(job.folder), 3)
    manifest = job.open.commit(
        job.id, config=job.identity, inputs=dict(inputs), summary=summary, seconds=seconds, **how
    )
    return Made(id=job.id, summary=manifest.summary, seconds=own)
