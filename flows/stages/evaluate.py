"""Generate the test images without and with each removal, have them judged, count, and draw."""

import functools
from collections.abc import Callable

from flows.run import Run
from flows.stages.judge import judge
from flows.stages.totals import totals
from tasks.engine.job import Made
from tasks.engine.judge import DomainJudge
from tasks.engine.step import publish
from tasks.evaluate import EvaluateJob
from tasks.evaluate import evaluate as task
from tasks.images import ImagesJob, bases, image_set, images_shard, shard_count
from tasks.report import ReportJob, report
from tasks.tune import TuneJob


def evaluate(run: Run, removals: dict[str, tuple[TuneJob, Made]]) -> dict[str, Made]:
    """{concept: evaluation}; a concept that failed is missing."""

    def based(job: ImagesJob) -> ImagesJob:
        return job.model_copy(update={"bases": bases(job, run.earlier("images"), run.earlier("prompts"))})

    wanted = sorted({p for job, _ in removals.values() for p in job.prompts_ids})
    unedited = dict(zip(wanted, run.every("unedited", wanted, lambda p: images(run, p, based)), strict=True))

    @functools.cache
    def look(image_set_id: str, judges: tuple[tuple[str, DomainJudge], ...]) -> tuple[str, ...]:
        # Once for all removals that have the same judges and labels.
        return judge(run, image_set_id, dict(judges))

    def do(concept: str) -> Made:
        job, removal = removals[concept]
        edited = tuple(images(run, p, based, removal.id, (job.domain, concept)) for p in job.prompts_ids)
        plain = tuple(unedited[p] for p in job.prompts_ids)
        judges = run.judges(concept)
        seen = {i: judge(run, i, judges) for i in edited} | {i: look(i, tuple(judges.items())) for i in plain}
        made = run.step(
            task,
            EvaluateJob(
                workspace=run.workspace,
                domain=job.domain,
                concept=concept,
                domains=tuple(run.config.domains),
                removal_id=removal.id,
                edited=edited,
                unedited=plain,
                judgements=seen,
                seeds=run.config.evaluate.seeds,
                n=removal.summary["n"],
                gamma=removal.summary["gamma"],
            ),
        )
        pictures = ReportJob(
            workspace=run.workspace,
            domain=job.domain,
            concept=concept,
            prompts_ids=job.prompts_ids,
            edited=edited,
            unedited=plain,
            reference=job.reference,
            hookpoints=tuple(job.saes),
        )

        def summed(pictures: ReportJob) -> ReportJob:
            return pictures.model_copy(update={"totals": totals(run, job.domain, job.reference.values(), job.saes)})

        run.step(report, pictures, prepare=summed)
        run.publish(publish, pictures)
        return made

    return run.each("evaluate", removals, do, lambda concept: concept)


def images(
    run: Run,
    prompts_id: str,
    based: Callable[[ImagesJob], ImagesJob],
    removal_id: str | None = None,
    sampled_for: tuple[str, str] | None = None,
) -> str:
    """One image set, a step a shard; returns its id. `based` names earlier sets, whose images are taken from there."""
    job = ImagesJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=run.config.evaluate,
        prompts_id=prompts_id,
        removal_ids=(removal_id,) if removal_id else (),
        sampled_for=sampled_for if run.config.evaluate.retained_cells else None,
    )
    run.shards(images_shard, job, shard_count, prepare=based)
    return run.step(image_set, job).id
