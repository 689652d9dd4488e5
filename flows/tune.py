"""Tune the removal of each wanted concept against its reference set."""

from flows.run import Run
from flows.score import score_job
from saeuron.config import TuneConfig
from storage import Workspace
from tasks.score import score as score_task
from tasks.step import Made
from tasks.tune import TuneJob, publish
from tasks.tune import tune as task


def tune(
    run: Run, concepts: list[str], prompts_ids: dict[str, str], saes: dict[str, str], scores: dict[str, str]
) -> dict[str, tuple[TuneJob, Made]]:
    """{concept: (job, removal)}; a concept that failed is missing."""
    # A removal is still computed against a concept that has left, until it is refreshed.
    left = {c: score_job(run, c, prompts_ids, saes) for c in sorted(run.removed) if run.domain_of(c)}
    known = scores | {c: job.id for c, job in left.items()}
    jobs = {c: tune_job(run, c, prompts_ids, saes, known) for c in concepts if c in scores}

    def do(concept: str) -> Made:
        job = jobs[concept]
        for name in left.keys() & job.reference.keys():
            # Its statistics are only asked for where the removal has to be made again.
            if not Workspace(run.workspace).has(job.id):
                run.step(score_task, left[name])
        made = run.step(task, job)
        run.publish(publish, job)
        return made

    made = run.each("tune", jobs, do, lambda c: c)
    return {concept: (jobs[concept], removal) for concept, removal in made.items()}


def grid(run: Run, domain: str) -> TuneConfig:
    """The tuning of one family: its own n and gamma where it has them."""
    family, common = run.config.domains[domain], run.config.tune
    own = {"n": family.n or common.n, "gamma": family.gamma or common.gamma}
    return TuneConfig.model_validate(common.model_dump() | own)


def tune_job(
    run: Run, concept: str, prompts_ids: dict[str, str], saes: dict[str, str], scores: dict[str, str]
) -> TuneJob:
    """The removal of one concept, against its reference set."""
    domain = next(d for d, names in run.domain_concepts.items() if concept in names)
    sets = ("", concept) if run.added_as(concept) else ("",)
    return TuneJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=grid(run, domain),
        domain=domain,
        concept=concept,
        prompts_ids=tuple(prompts_ids[s] for s in sets),
        saes={h: saes[h] for h in run.config.domains[domain].hookpoints},
        reference={c: scores[c] for c in run.roster.reference(run.config, concept) if c in scores},
        judge_id=run.judge_id,
        judges=run.judges,
    )
