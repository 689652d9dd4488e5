"""Judge a set of images: one step for each domain that has a judge."""

from collections.abc import Mapping

from flows.run import Run
from tasks.engine.judge import DomainJudge
from tasks.judge import JudgeJob
from tasks.judge import judge as task


def judge(run: Run, image_set_id: str, judges: Mapping[str, DomainJudge]) -> tuple[str, ...]:
    """Ids of the judgements of an image set, one per domain; nothing is generated."""
    jobs = [
        JudgeJob(workspace=run.workspace, device=run.device, image_set_id=image_set_id, domain=domain, judge=chosen)
        for domain, chosen in judges.items()
    ]
    return tuple(run.step(task, job).id for job in jobs)
