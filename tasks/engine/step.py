"""Make a function a step: cached by its artifact, locked, retried.

Prefect's cache key is the artifact's id, and a record is only believed while the files it speaks of are there: a
deleted or truncated output is made again.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.filesystems import LocalFileSystem
from prefect.serializers import Serializer
from pydantic import ValidationError

import saeuron.errors
import storage.errors
from storage import Workspace
from storage.errors import ArtifactDamaged, ArtifactMissing, Damaged, DiskFull, StorageError
from storage.files import NO_ROOM, read_json
from storage.seals import read_sealed, write_sealed
from tasks.engine import page
from tasks.engine.gpu import gpu
from tasks.engine.job import Job, Made
from tasks.engine.worker import at_work

log = logging.getLogger(__name__)

USER_ERRORS = (saeuron.errors.UserError, storage.errors.UserError)
"""Mistakes that a retry cannot mend."""
FINAL_ERRORS = (*USER_ERRORS, DiskFull)
"""What neither a retry nor the next item can mend."""


class ByArtifact(CachePolicy):
    """The cache key of a step is the id of what it makes."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        del task_ctx, flow_parameters, kwargs
        parts = [str(value) for name, value in sorted(inputs.items()) if name != "job"]
        return "_".join([inputs["job"].id, *parts])


class Believed(Serializer):
    """Records as JSON; reading one whose artifact is gone or damaged fails, which Prefect takes as a miss."""

    type: Literal["saeuron-record"] = "saeuron-record"
    workspace: str

    def dumps(self, obj: Any) -> bytes:
        return obj.model_dump_json().encode() if isinstance(obj, Made) else b"null"

    def loads(self, blob: bytes) -> Any:
        made = Made.model_validate_json(blob)
        if not Workspace(Path(self.workspace)).has(made.id):
            raise ArtifactMissing(made.id)
        return made.model_copy(update={"cached": True})


class Records(LocalFileSystem):
    """Where records lie, whole or absent: Prefect itself leaves an empty one if it is killed as it writes."""

    _block_type_name = "Saeuron records"
    _block_type_slug = "saeuron-records"

    def read_path(self, path: str, _sync: bool = True) -> bytes:
        record = read_sealed(self._resolve_path(path))
        # It names the workspace where it was written. This one may be a copy, which lost what the other still has.
        record["metadata"]["serializer"]["workspace"] = str(Path(str(self.basepath)).parent)
        return json.dumps(record).encode()

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> str:
        whole = self._resolve_path(path)
        try:
            write_sealed(whole, json.loads(content))
        except (OSError, StorageError) as error:
            # Prefect would log a traceback and go on. What the record says, the artifact's manifest says as well.
            log.warning("the record %s was not kept: %s", whole.name, error)
        return str(whole)


def spent(workspace: Workspace, artifact_id: str) -> float:
    """Seconds that a committed artifact took, its shards included as far as their records are still there."""
    seconds = workspace.manifest(artifact_id).seconds
    for path in workspace.records.glob(f"{artifact_id}_*"):
        try:
            seconds += Made.model_validate_json(read_json(path)["result"]).seconds
        except (KeyError, TypeError, ValidationError, StorageError):
            continue
    return seconds


def _worth_retrying(task_: Any, run: Any, state: Any) -> bool:
    del task_, run
    error = state.result(raise_on_failure=False)
    return not isinstance(error, (*FINAL_ERRORS, ArtifactDamaged, PermissionError, KeyboardInterrupt))


def _fetch(workspace: Workspace, job: Job) -> None:
    """Fetch the step's inputs from the object store; a local workspace has them."""
    for artifact, names in job.reads.items():
        # The step itself reports better what is missing.
        with suppress(ArtifactMissing):
            workspace.fetch(artifact, *names)


@contextmanager
def setting_aside() -> Iterator[None]:
    """Hide a file that is found damaged: of the right size, it would be believed by the next run as well."""
    try:
        yield
    except ArtifactDamaged as error:
        path = Path(error.args[0])
        if path.is_file():
            path.replace(path.with_name(f".{path.name}.damaged"))
        raise


Step = TypeVar("Step", bound=Callable[..., Made])


def step(name: str) -> Callable[[Step], Step]:
    """Make a function (job, ...) -> Made a Prefect task: cached by its artifact, retried twice for transient faults.

    Whoever comes second, in this process or another, waits for the first and finds the work done.
    """

    def wrap(function: Step) -> Step:
        @task(
            name=name,
            task_run_name=f"{name} {{job.label}}",
            cache_policy=ByArtifact(),
            persist_result=True,
            retries=2,
            retry_delay_seconds=2,
            retry_condition_fn=_worth_retrying,
        )
        @functools.wraps(function)
        def once(job: Job, *args: Any, **kwargs: Any) -> Made:
            with at_work(job.worker, job.workspace, job.device) as device:
                return locked(
                    job if device == job.device else job.model_copy(update={"device": device}), *args, **kwargs
                )

        def locked(job: Job, *args: Any, **kwargs: Any) -> Made:
            workspace = job.open
            key = "_".join([job.id, *map(str, args)])
            with workspace.lock(key):
                workspace.resume(job.id)
                if (there := in_place(job)) is not None:
                    return there
                # What it says may soon be no longer so; that there is none is well.
                (workspace.records / key).unlink(missing_ok=True)
                try:
                    _fetch(workspace, job)
                    with setting_aside(), gpu(job.device):
                        made = function(job, *args, **kwargs)
                except OSError as error:
                    # The library writes weights and pictures by itself, and knows no error of storage.
                    if error.errno in NO_ROOM:
                        raise DiskFull(error.filename or job.folder, 0) from error
                    raise
                page.show(job, made, *args)
                return made

        def bound(job: Job) -> Any:
            records = Workspace.open(job.workspace).records
            mine = once.with_options(result_serializer=Believed(workspace=str(job.workspace)))
            # As an option it would have to be registered with a server first; as an attribute it is taken as it is.
            mine.result_storage = Records(basepath=str(records))
            return mine

        @functools.wraps(function)
        def run(job: Job, *args: Any, **kwargs: Any) -> Made:
            return bound(job)(job, *args, **kwargs)

        run.fn = once.fn  # type: ignore[attr-defined]
        run.submit = lambda job, *args: bound(job).submit(job, *args)  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return wrap


def in_place(job: Job) -> Made | None:
    """What a step would return if what it makes is there and whole."""
    try:
        manifest = job.open.manifest(job.id)
    except (ArtifactMissing, Damaged):
        return None
    return Made(id=job.id, summary=manifest.summary, cached=True, seconds=manifest.seconds)


def submit(task_: Callable[..., Made], job: Job, *args: int) -> Callable[[], Made]:
    """Give a step to the workers of the flow that runs; what comes back waits for it."""
    return task_.submit(job, *args).result  # type: ignore[attr-defined]
