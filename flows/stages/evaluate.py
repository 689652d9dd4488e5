"""Generate test images without and with each removal, judge them, compute figures, draw pictures."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flows.run import Run
from flows.stages.judge import judge
from flows.stages.totals import totals
from flows.stages.tune import Wanted
from tasks.engine.job import Made
from tasks.engine.judge import DomainJudge
from tasks.engine.step import publish
from tasks.evaluate import EvaluateJob
from tasks.evaluate import evaluate as task
from tasks.images import ImagesJob, bases, image_set, images_shard, shard_count
from tasks.report import ReportJob, report
from tasks.tune import TuneJob


def plain(run: Run, prompts_id: str) -> str:
    """Make the unedited test images of a prompt set; returns the id of the image set."""
    return images(run, prompts_id, based_on_earlier(run))


def based_on_earlier(run: Run) -> Callable[[ImagesJob], ImagesJob]:
    """A function that adds to a job the earlier image sets from which images may be copied."""

    def based(job: ImagesJob) -> ImagesJob:
        return job.model_copy(update={"bases": bases(job, run.earlier("images"), run.earlier("prompts"))})

    return based


def evaluate(run: Run, removals: dict[Wanted, tuple[TuneJob, Made]]) -> dict[Wanted, tuple[EvaluateJob, Made]]:
    """{(concept, method): (job, evaluation)}; failed ones are missing. Controls get no pictures."""
    jobs: dict[Wanted, EvaluateJob] = {}
    based = based_on_earlier(run)

    wanted = sorted({p for job, _ in removals.values() for p in job.trials.prompts_ids})
    unedited = dict(zip(wanted, run.every("unedited", wanted, lambda p: plain(run, p)), strict=True))

    @functools.cache
    def look(image_set_id: str, judges: tuple[tuple[str, DomainJudge], ...]) -> tuple[str, ...]:
        # Cached: removals with the same judges and labels share the judgements of unedited images.
        return judge(run, image_set_id, dict(judges))

    def do(wanted_: Wanted) -> Made:
        job, removal = removals[wanted_]
        trials = job.trials
        own = (job.domain, job.concept) if run.config.evaluate.retained_cells else None
        edited = tuple(images(run, p, based, [removal], job.label, sampled_for=own) for p in trials.prompts_ids)
        without = tuple(unedited[p] for p in trials.prompts_ids)
        judges = run.judges(job.concept)
        seen = {i: judge(run, i, judges) for i in edited} | {i: look(i, tuple(judges.items())) for i in without}
        jobs[wanted_] = EvaluateJob(
            workspace=run.workspace,
            device=run.device,
            domain=job.domain,
            concept=job.concept,
            method=job.method,
            domains=tuple(run.config.domains),
            judges=judges,
            removal_id=removal.id,
            edited=edited,
            unedited=without,
            judgements=seen,
            seeds=run.config.evaluate.seeds,
            verdict=run.config.verdict,
            features=run.config.features,
            features_id=run.features_id,
        )
        made = run.step(task, jobs[wanted_])
        if job.method not in run.config.method or not run.publishes:
            return made
        pictures = ReportJob(
            workspace=run.workspace,
            domain=job.domain,
            concept=job.concept,
            method=job.method,
            prompts_ids=trials.prompts_ids,
            edited=edited,
            unedited=without,
            judgements=seen,
            evaluation_id=made.id,
            scores=trials.scores,
            hookpoints=tuple(trials.saes),
        )

        def summed(pictures: ReportJob) -> ReportJob:
            if not trials.scores:
                return pictures
            return pictures.model_copy(update={"totals": totals(run, job.domain, trials.scores.values(), trials.saes)})

        run.step(report, pictures, prepare=summed)
        run.publish(publish, pictures)
        return made

    by_name = {str(which): which for which in removals}
    done = run.each("evaluate", removals, do, str)
    return {by_name[name]: (jobs[by_name[name]], made) for name, made in done.items()}


def images(
    run: Run,
    prompts_id: str,
    based: Callable[[ImagesJob], ImagesJob],
    removals: Sequence[Made] = (),
    named: str = "",
    **which: Any,
) -> str:
    """Make one image set, a step per shard; return its id. `based` adds earlier sets to copy images from.

    Args:
        removals: removals to attach together, in any order.
        named: their name for people.
        which: more fields of `ImagesJob`, which choose the images.
    """
    # A planned removal has no content yet: which candidate it will be is not known.
    pairs = sorted((removal.summary.get("content", removal.id), removal.id) for removal in removals)
    job = ImagesJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        prompts_id=prompts_id,
        removal_ids=tuple(name for _, name in pairs),
        contents=tuple(content for content, _ in pairs),
        named=named,
        **{"config": run.config.evaluate, **which},
    )
    run.shards(images_shard, job, shard_count, prepare=based)
    return run.step(image_set, job).id
