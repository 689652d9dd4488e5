"""Tune the removal of each wanted concept against its reference set."""

from flows.run import Run
from flows.stages.prompts import PromptSet, of_added
from flows.stages.score import score_job
from flows.stages.totals import totals
from saeuron.config import RunConfig, TuneConfig
from saeuron.judges import NONE
from tasks.engine import progress
from tasks.engine.job import Made
from tasks.engine.step import publish
from tasks.prompts import images_id
from tasks.score import score as score_task
from tasks.tune import TuneJob, images
from tasks.tune import tune as task


def tune(
    run: Run, concepts: list[str], sets: dict[str, PromptSet], saes: dict[str, str], scores: dict[str, str]
) -> dict[str, tuple[TuneJob, Made]]:
    """{concept: (job, removal)}; a concept that failed is missing."""
    if concepts and (note := unsearched(run.config)):
        progress.line(note)
    # A removal is still computed against a concept that has left, until it is refreshed.
    left = {c: score_job(run, c, sets, saes) for c in sorted(run.removed) if run.domain_of(c)}
    known = scores | {c: job.id for c, job in left.items()}
    earlier = {
        c: {name: score_job(run, name, sets, saes, of_added(run, then)) for name, then in as_known.items()}
        for c in concepts
        if c in scores and (as_known := run.roster.as_known(c))
    }
    jobs = {
        c: tune_job(run, c, sets, saes, known | {name: job.id for name, job in earlier.get(c, {}).items()})
        for c in concepts
        if c in scores
    }

    def summed(job: TuneJob) -> TuneJob:
        others = left | earlier.get(job.concept, {})
        for name in sorted(others.keys() & job.reference.keys()):
            run.step(score_task, others[name])
        return job.model_copy(update={"totals": totals(run, job.domain, job.reference.values(), job.saes)})

    def do(concept: str) -> Made:
        made = run.step(task, jobs[concept], prepare=summed)
        run.publish(publish, jobs[concept])
        return made

    made = run.each("tune", jobs, do, lambda c: c)
    return {concept: (jobs[concept], removal) for concept, removal in made.items()}


def unsearched(config: RunConfig) -> str:
    """What to tell a person where settings cannot be searched, for want of a judge; empty where they are."""
    without = [domain for domain, d in config.domains.items() if d.judge == NONE]
    if not without:
        return ""
    return (
        f"no judge for {', '.join(without)}: settings are not searched; every removal takes the mildest, "
        "the smallest n and the gamma nearest to 0"
    )


def grid(run: Run, domain: str) -> TuneConfig:
    """The tuning of one family: its own n and gamma where it has them."""
    family, common = run.config.domains[domain], run.config.tune
    own = {"n": family.n or common.n, "gamma": family.gamma or common.gamma}
    return TuneConfig.model_validate(common.model_dump() | own)


def tune_job(
    run: Run, concept: str, sets: dict[str, PromptSet], saes: dict[str, str], scores: dict[str, str]
) -> TuneJob:
    """The removal of one concept, against its reference set."""
    domain = next(d for d, names in run.domain_concepts.items() if concept in names)
    config = grid(run, domain)
    mine = [sets[s] for s in ("", concept) if s == "" or run.added_as(concept)]
    reference = {c: scores[c] for c in run.roster.reference(run.config, concept) if c in scores}
    return TuneJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=config,
        domain=domain,
        concept=concept,
        prompts_ids=tuple(s.id for s in mine),
        images_id=images_id(images([p for s in mine for p in s.prompts], config, domain, concept, reference))
        if not run.unjudged
        else "",
        saes={h: saes[h] for h in run.config.domains[domain].hookpoints},
        reference=reference,
        domains=tuple(run.config.domains),
        judges={} if run.unjudged else run.judges(concept),
    )
