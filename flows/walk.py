"""Whether a run has nothing to make; then it starts no Prefect server, which would take seconds."""

from flows.pipeline import stages
from flows.plan import Plan, Planned
from saeuron.config import RunConfig
from storage import Workspace
from tasks.engine.job import Job


class _Missing(BaseException):
    """An artifact is missing. Not an `Exception`, which `Run.each` would note before going on."""


class Walk(Plan):
    """A plan that stops at the first missing artifact."""

    def _missing(self, workspace: Workspace, job: Job) -> Planned:
        raise _Missing


def finds_everything(config: RunConfig, workspace: Workspace, concepts: list[str] | None, device: str) -> bool:
    """Whether a run of `config` has nothing to make; `concepts` as in `flows.pipeline.pipeline`."""
    walk = Walk.of(workspace, config, device)
    try:
        stages(walk, concepts)
    except _Missing:
        return False
    return not walk.failures
