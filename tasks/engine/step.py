"""Make a function a step: it holds its artifact's lock, does nothing if the artifact is whole, and is retried.

The artifacts' manifests are the only cache: Prefect keeps no results. A deleted or truncated output is made again.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import saeuron.errors
import storage.errors
from saeuron.errors import NoRoom
from storage import Workspace
from storage.errors import ArtifactDamaged, ArtifactMissing, Damaged, DiskFull
from storage.files import NO_ROOM
from tasks.engine.gpu import gpu
from tasks.engine.job import Job, Made, note_seconds
from tasks.engine.worker import at_work

USER_ERRORS = (saeuron.errors.UserError, storage.errors.UserError)
"""Errors of the user, which a retry cannot mend."""
FINAL_ERRORS = (*USER_ERRORS, DiskFull)
"""Errors that neither a retry nor the next item can mend."""


def _worth_retrying(task_: Any, run: Any, state: Any) -> bool:
    del task_, run
    error = state.result(raise_on_failure=False)
    return not isinstance(error, (*FINAL_ERRORS, ArtifactDamaged, PermissionError, KeyboardInterrupt))


def _fetch(workspace: Workspace, job: Job) -> None:
    """Fetch the step's inputs from the object store; a local workspace has them."""
    for artifact, names in job.reads.items():
        # The step itself reports a missing input more precisely.
        with suppress(ArtifactMissing):
            workspace.fetch(artifact, *names)


@contextmanager
def setting_aside() -> Iterator[None]:
    """Rename a file that turns out to be damaged to a hidden name; otherwise the next run would trust its size."""
    try:
        yield
    except ArtifactDamaged as error:
        path = Path(error.args[0])
        if path.is_file():
            path.replace(path.with_name(f".{path.name}.damaged"))
        raise


class Step:
    """A function (job, ...) -> Made that makes an artifact: a Prefect task, retried twice for transient faults.

    A step whose artifact is whole does nothing. A second caller, in this process or another, waits for the first and
    finds the work done. Prefect is imported at the first call.
    """

    def __init__(self, name: str, function: Callable[..., Made]) -> None:
        functools.update_wrapper(self, function)
        self.name, self.function = name, function

    def __reduce__(self) -> tuple[Any, ...]:
        # By reference: workers import the module.
        return _imported, (self.function.__module__, self.function.__qualname__)

    def __call__(self, job: Job, *args: Any) -> Made:
        """Run the task in this process."""
        return self._task(job, *args)

    def submit(self, job: Job, *args: Any) -> Callable[[], Made]:
        """Submit the task to the workers of the running flow; returns a function that waits for its result."""
        result: Callable[[], Made] = self._task.submit(job, *args).result
        return result

    @functools.cached_property
    def _task(self) -> Any:
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        def once(job: Job, *args: Any) -> Made:
            return self.fn(job, *args)

        return task(
            name=self.name,
            task_run_name=f"{self.name} {{job.label}}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2,
            retry_delay_seconds=2,
            retry_condition_fn=_worth_retrying,
        )(once)

    def fn(self, job: Job, *args: Any) -> Made:
        """Run without Prefect: prepare this process, wait for the artifact's lock, make what is missing."""
        with at_work(job.worker, job.workspace, job.device) as device:
            return self._locked(job if device == job.device else job.model_copy(update={"device": device}), *args)

    def _locked(self, job: Job, *args: Any) -> Made:
        from tasks.engine import page

        workspace = job.open
        with workspace.lock("_".join([job.id, *map(str, args)])):
            workspace.resume(job.id)
            if (there := in_place(job)) is not None:
                return there
            try:
                _fetch(workspace, job)
                with setting_aside(), gpu(job.device):
                    made = self.function(job, *args)
                if args and not made.cached:
                    note_seconds(job, made, *args)
            except OSError as error:
                # The library writes weights and pictures itself and cannot raise DiskFull.
                if error.errno in NO_ROOM:
                    raise DiskFull(error.filename or job.folder, 0) from error
                raise
            except (RuntimeError, MemoryError) as error:
                from saeuron import memory

                if not memory.full(error):
                    raise
                raise NoRoom(f"{job.stage} {job.label}", memory.reason(error)) from error
            page.show(job, made, *args)
            return made


def step(name: str) -> Callable[[Callable[..., Made]], Step]:
    """Make a function a step, under the name that Prefect's page shows."""
    return functools.partial(Step, name)


def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


def in_place(job: Job, workspace: Workspace | None = None) -> Made | None:
    """The result of a step whose artifact exists, or None. `workspace`: the job's, if it is open already."""
    try:
        manifest = (workspace or job.open).manifest(job.id)
    except (ArtifactMissing, Damaged):
        return None
    return Made(id=job.id, summary=manifest.summary, cached=True, seconds=manifest.seconds)


def publish(job: Job) -> dict[str, Path]:
    """Copy the files that a job publishes to their places; equal copies are not written again.

    Returns:
        {file of the artifact: its copy}.

    Raises:
        ArtifactMissing, ArtifactDamaged: as `Workspace.whole`.
    """
    workspace, found = job.open, {}
    for file, place in job.places.items():
        with setting_aside():
            data = (workspace.whole(job.id, file) / file).read_bytes()
        path = workspace.root / place
        if not path.exists() or path.read_bytes() != data:
            workspace.agreed(functools.partial(workspace.write, path, data))
        found[file] = path
    return found
