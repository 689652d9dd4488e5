"""Whether a run has nothing to make; then it starts no Prefect server, which would take seconds."""

from collections.abc import Callable
from typing import Any

from flows.pipeline import stages
from flows.run import Run, Sought
from saeuron.config import RunConfig
from storage import Workspace
from tasks.engine.job import Job, Made
from tasks.engine.step import Step, in_place


class _Missing(BaseException):
    """An artifact is missing. Not an `Exception`, which `Run.each` would note before going on."""


class Walk(Run):
    """A run that stops at the first missing artifact. It writes nothing."""

    def shards(self, task: Step, job: Sought, *unused: Any, **options: Any) -> None:
        """Stop if the artifact is missing; shards need no check of their own."""
        if not self.opened.has(job.id):
            raise _Missing

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Do nothing; the run that follows publishes."""

    def _begin(self, task: Step, job: Sought, *args: int, **options: Any) -> Callable[[], Made]:
        there = in_place(job, self.opened)
        if there is None:
            raise _Missing
        return lambda: there


def finds_everything(config: RunConfig, workspace: Workspace, concepts: list[str] | None, device: str) -> bool:
    """Whether a run of `config` has nothing to make; `concepts` as in `flows.pipeline.pipeline`."""
    walk = Walk.of(workspace, config, device)
    try:
        stages(walk, concepts)
    except _Missing:
        return False
    return not walk.failures
