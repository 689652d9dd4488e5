"""Whether a run finds everything in place: then it needs no Prefect, whose server takes seconds to start."""

from collections.abc import Callable
from typing import Any

from flows.pipeline import stages
from flows.run import Run, Sought
from saeuron.config import RunConfig
from storage import Workspace
from tasks.engine.job import Job, Made
from tasks.engine.step import Step, in_place


class _Missing(BaseException):
    """Something would have to be made. Not an Exception: `Run.each` would note it and go on."""


class Walk(Run):
    """A run that ends at the first step that would make something. It writes nothing."""

    def shards(self, task: Step, job: Sought, *unused: Any, **options: Any) -> None:
        """Shards belong to their artifact."""
        if not self.opened.has(job.id):
            raise _Missing

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """The run itself does this, with or without Prefect."""

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
