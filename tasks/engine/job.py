"""A stage, declared once: the class of its jobs. Also the identity of a job, its folder, the commit.

How to declare a stage: one file, in `tasks/` or in a package of your own.

    class ToySummary(Summary):
        toys: int

    class ToyJob(Job):
        stage, version, summary_type = "toy", 1, ToySummary    # raise the version by hand when the meaning changes
        views = (View(name="toys", key="toy_id", file="toys.parquet", columns=(Column("toy", "VARCHAR", "", "name"),)),)
        publishes = {"toys.txt": "pictures/{concept}_toys.txt"}    # copies for people; {fields} of the job
        command = RUN                                          # what makes it again
        concept: str                                           # fields: configuration, ids of inputs; hashed to the id

    @step("toy")
    def toy(job: ToyJob) -> Made:
        clock = Clock()
        write_table(job.folder / "toys.parquet", table([{"toy": job.concept}], ToyJob.views[0]))
        write_atomic(job.folder / "toys.txt", job.concept.encode())
        return commit(job, {}, ToySummary(toys=1), clock)

A shipped stage is named in `tasks/stages.py`, its view in `storage/tables.py`, its place in a run in `flows/stages/`.
One from elsewhere is registered (`tasks.stages.register`, or an entry point of the group `saeuron.stages` that names
the class) and says in `jobs` what a run makes of it. SQL, status, gc, verify and the plan then know it.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from saeuron.config import RunConfig
from storage import Workspace
from storage.catalog.columns import COLUMNS
from storage.declared import View
from storage.errors import BadTable, StorageError
from storage.files import file_name, read_json, write_json
from storage.identity import artifact_id
from storage.tables import SHIPPED, check_file
from storage.verify import ids_in
from tasks.engine.worker import Worker

RUN = "saeuron run"
"""The command that walks through all stages."""


class Summary(BaseModel):
    """What a manifest says of an artifact. A stage has a subclass with its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ran(NamedTuple):
    """What a run tells a stage from elsewhere, once the stages that ship are done, or planned."""

    config: RunConfig
    workspace: Path
    model_id: str
    device: str
    made: Mapping[str, tuple[str, ...]]
    """{stage: ids of the artifacts that the run uses}."""


class Job(BaseModel):
    """What one step is to make. A subclass declares a stage.

    Raises:
        BadTable: (as a subclass is declared) a view has the name of another that every workspace has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[str]
    """Name of the stage, and the first part of its ids."""
    version: ClassVar[int]
    """Raised by hand when the meaning of the stage changes."""
    title: ClassVar[str] = ""
    """What a person calls a job, with {fields} of it; empty: the stage's name."""
    excluded_from_id: ClassVar[frozenset[str]] = frozenset()
    """Fields that do not enter the identity: they change no result."""
    summary_type: ClassVar[type[Summary]] = Summary
    """What `commit` is given."""
    views: ClassVar[tuple[View, ...]] = ()
    """What SQL shows of its artifacts, beyond the views of `storage/catalog/views.sql`."""
    publishes: ClassVar[Mapping[str, str]] = {}
    """{file of the artifact: path in the workspace where people look for it}, with fields of the job in braces."""
    command: ClassVar[str] = ""
    """What makes it again; fields of the summary may stand in braces. Empty: nobody but its author knows."""
    in_run: ClassVar[bool] = False
    """Whether a run's walk through the stages names every artifact of it that is still of use. Garbage collection keeps
    artifacts of other stages as long as their inputs."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for view in cls.views:
            if view.name in COLUMNS and view not in SHIPPED.get(cls.stage, ()):
                raise BadTable(
                    f"stage {cls.stage!r} declares a view {view.name!r}, which every workspace has: rename it"
                )

    @classmethod
    def jobs(cls, run: Ran) -> Iterable[tuple[Callable[[Any], "Made"], "Job"]]:
        """(step, job) of each artifact that `saeuron run` makes after the stages that ship; for stages from elsewhere.

        A stage that overrides this sets `in_run`.
        """
        del run
        return ()

    workspace: Path
    """Where it reads and writes."""
    device: str = "cpu"
    """Where the model runs."""
    worker: Worker | None = None
    """Set where the step is given to another process: what that must know."""

    @property
    def label(self) -> str:
        """The title, filled in."""
        return self.title.format_map(dict(self)) or self.stage

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
    def places(self) -> dict[str, str]:
        """{file: path in the workspace} of what it publishes."""
        # Names are data: whatever a concept is called, its files stay in their folder.
        names = {name: file_name(value) if isinstance(value, str) else value for name, value in self}
        return {file: place.format_map(names) for file, place in self.publishes.items()}

    def show(self, made: "Made") -> None:
        """Show people who look at Prefect's page what was made; by default nothing."""

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
    # A part that is made again below a manifest needs no commit, which would delete the note.
    if not job.open.manifest_path(job.id).exists():
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


def commit(job: Job, inputs: Mapping[str, Any], summary: Summary, clock: Clock, **how: Any) -> Made:
    """Write the manifest of what `job` made, last of all. Its seconds are those of the parts as well.

    Raises:
        BadTable: a file does not have the columns that the stage's view declares.
    """
    own = clock.seconds
    workspace = job.open
    for view in job.views:
        check_file(job.folder, view)
    manifest = workspace.commit(
        job.id,
        config=job.identity,
        inputs=dict(inputs),
        summary=summary.model_dump(mode="json"),
        seconds=round(own + _noted_seconds(job.folder), 3),
        publishes=job.places,
        # Those that ship are known everywhere.
        views=[view for view in job.views if view.name not in COLUMNS],
        **how,
    )
    return Made(id=job.id, summary=manifest.summary, seconds=own)
