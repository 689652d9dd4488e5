"""Tune the removal of each wanted concept against its reference set."""

from flows.run import Run
from saeuron.config import TuneConfig
from tasks.step import Made
from tasks.tune import TuneJob, publish
from tasks.tune import tune as task


def tune(
    run: Run, concepts: list[str], prompts_ids: dict[str, str], saes: dict[str, str], scores: dict[str, str]
) -> dict[str, tuple[TuneJob, Made]]:
    """{concept: (job, removal)}; a concept that failed is missing."""
    jobs = {c: tune_job(run, c, prompts_ids, saes, scores) for c in concepts if c in scores}

    def do(concept: str) -> Made:
        made = run.step(task, jobs[concept])
        run.publish(publish, jobs[concept])
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
    """The reference set of a concept of the configuration is the configuration's; an added one's is that of its day.

    So a concept that is added later changes the removal of none that was there before.
    """
    domain = next(d for d, names in run.domain_concepts.items() if concept in names)
    record = run.added_as(concept)
    reference = record.reference if record else run.config.domains[domain].concepts
    sets = ("", concept) if record else ("",)
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
        reference={c: scores[c] for c in reference if c in scores},
        judge_id=run.judge_id,
        judges=run.judges,
    )
