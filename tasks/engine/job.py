"""Stages, each declared once by the class of its jobs; a job's id, its folder and its commit.

To declare a stage, write one file, in `tasks/` or in a package of your own:

    class ToySummary(Summary):
        toys: int

    class ToyJob(Job):
        stage, version, summary_type = "toy", 1, ToySummary    # raise the version when results change
        views = (View(name="toys", key="toy_id", file="toys.parquet", columns=(Column("toy", "VARCHAR", "", "name"),)),)
        publishes = {"toys.txt": "pictures/{concept}_toys.txt"}    # copies for people; {fields} of the job
        command = RUN                                          # the command that makes the artifact again
        concept: str                                           # settings and ids of inputs; the id is their hash

    @step("toy")
    def toy(job: ToyJob) -> Made:
        clock = Clock()
        write_table(job.folder / "toys.parquet", table([{"toy": job.concept}], ToyJob.views[0]))
        write_atomic(job.folder / "toys.txt", job.concept.encode())
        return commit(job, {}, ToySummary(toys=1), clock)

A shipped stage is listed in `tasks/stages.py`, its views in `storage/views/`, and a function in `flows/stages/`
orders its jobs. A stage from another package is registered by `tasks.stages.register`, or by an entry point of the
group `saeuron.stages` that names the class; its method `jobs` returns the jobs of a run. SQL, status, gc, verify and
the plan then include it.
"""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

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
"""The command that runs all stages."""


class Summary(BaseModel):
    """Base of the typed summaries in manifests; each stage has a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ran(NamedTuple):
    """A run whose shipped stages were made or planned: the argument of `Job.jobs`."""

    config: RunConfig
    workspace: Path
    model_id: str
    device: str
    made: Mapping[str, tuple[str, ...]]
    """{stage: ids of the artifacts that the run uses}."""


class Job(BaseModel):
    """One artifact to make: its configuration and inputs. A subclass declares a stage.

    Raises:
        BadTable: when a subclass is defined, if a view has the name of a shipped view.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[str]
    """Name of the stage, the first part of its ids."""
    version: ClassVar[int]
    """Raise it when the stage computes something else; old artifacts are then made again."""
    title: ClassVar[str] = ""
    """Label of a job for people, with {fields} of the job; empty: the stage's name."""
    excluded_from_id: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no result and are left out of the id."""
    summary_type: ClassVar[type[Summary]] = Summary
    """The class of its summaries."""
    views: ClassVar[tuple[View, ...]] = ()
    """SQL views of its artifacts, in addition to those in `storage/catalog/views.sql`."""
    publishes: ClassVar[Mapping[str, str]] = {}
    """{file of the artifact: path in the workspace of a copy for people}, with {fields} of the job in the paths."""
    command: ClassVar[str] = ""
    """The command that makes an artifact again, with {fields} of its summary; empty: unknown."""
    in_run: ClassVar[bool] = False
    """Whether a run names every artifact of this stage that is still needed. Artifacts of other stages are kept by
    garbage collection for as long as their inputs are."""

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
        """(step, job) of each artifact that `saeuron run` makes after the shipped stages.

        Only for a stage from another package, which then also sets `in_run`.
        """
        del run
        return ()

    workspace: Path
    """The workspace's folder."""
    device: str = "cpu"
    """Device of the model."""
    worker: Worker | None = None
    """Settings for the worker process that runs the step; None: this process runs it."""

    @property
    def label(self) -> str:
        """The title with its fields filled in."""
        return self.title.format_map(dict(self)) or self.stage

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same job with some fields changed, and the id that follows from them."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("id", None)
        return copied

    @functools.cached_property
    def id(self) -> str:
        """The id of the artifact."""
        return artifact_id(self.stage, self.version, self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that are hashed into the id, as JSON values.

        They include the kind of device, because rounding differs, but not its number. A model is identified by its
        content (`model_id`), not by its path.
        """
        fields = self.model_dump(mode="json", exclude={"workspace", "device", "worker", *self.excluded_from_id})
        if "model_id" in fields:
            del fields["model"]["spec"]
        kind = self.device.split(":")[0]
        return fields if kind == "cpu" else {**fields, "device": kind}

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """{artifact: files or folders that the step reads; empty: all}. By default, every artifact named in a field."""
        return dict.fromkeys(sorted(ids_in(self.model_dump(mode="json"))), ())

    @property
    def places(self) -> dict[str, str]:
        """{file: path in the workspace} of the copies for people."""
        # Encoded, so that no concept's name leads out of the folder.
        names = {name: file_name(value) if isinstance(value, str) else value for name, value in self}
        return {file: place.format_map(names) for file, place in self.publishes.items()}

    def show(self, made: "Made") -> None:
        """Show the result on Prefect's page; by default nothing is shown."""

    @property
    def open(self) -> Workspace:
        """The workspace, opened."""
        return Workspace.open(self.workspace)

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return self.open.folder(self.id)


class Made(BaseModel):
    """The result of a step: an id and small figures, never tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """The artifact."""
    summary: dict[str, Any] = {}
    """Summary from its manifest."""
    cached: bool = False
    """Whether it existed before."""
    seconds: float = 0.0
    """Duration of this step in seconds; for a cached artifact, of all its steps."""


class Clock:
    """Seconds since its creation."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since creation, to the millisecond."""
        return round(time.monotonic() - self.start, 3)


def note_seconds(job: Job, made: Made, *part: object) -> None:
    """Record how long a part of an artifact took, for `commit`, in a hidden file beside the artifact's own."""
    # A part that is repaired in a committed artifact is not followed by a commit, which would delete the note.
    if not job.open.manifest_path(job.id).exists():
        write_json(job.folder / f".{'_'.join(map(str, part))}.seconds", made.seconds)


def _noted_seconds(folder: Path) -> float:
    """Sum of the seconds that `note_seconds` recorded; deletes the records."""
    total = 0.0
    for path in sorted(folder.glob(".*.seconds")):
        # The sum is only an estimate, so a note that cannot be read is skipped.
        with suppress(StorageError, TypeError, ValueError):
            total += float(read_json(path))
        path.unlink()
    return round(total, 3)


def commit(job: Job, inputs: Mapping[str, Any], summary: Summary, clock: Clock, **how: Any) -> Made:
    """Commit a job's artifact by writing its manifest. Its seconds include those of its parts.

    Args:
        inputs: {role: ids of the artifacts that it was made from}.
        how: further arguments of `Workspace.commit`.

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
        # Shipped views need no copy in the manifest.
        views=[view for view in job.views if view.name not in COLUMNS],
        **how,
    )
    return Made(id=job.id, summary=manifest.summary, seconds=own)
