"""Gather the statistics of every concept, added ones included."""

from flows.run import Run
from flows.stages.prompts import PromptSet
from flows.stages.totals import keep
from saeuron.scoring import images
from tasks.engine.job import Made
from tasks.prompts import images_id
from tasks.score import ScoreJob, bases
from tasks.score import score as task


def score(run: Run, sets: dict[str, PromptSet], saes: dict[str, str]) -> dict[str, str]:
    """{concept: score id}, without dropped concepts and those that failed."""

    def based(job: ScoreJob) -> ScoreJob:
        return job.model_copy(update={"bases": bases(job, run.earlier("score"))})

    def do(concept: str) -> Made:
        return run.step(task, score_job(run, concept, sets, saes), prepare=based)

    items = [c for concepts in run.domain_concepts.values() for c in concepts]
    scores = {concept: made.id for concept, made in run.each("score", items, do, lambda concept: concept).items()}
    keep(run, scores, saes)
    return scores


def score_job(
    run: Run, concept: str, sets: dict[str, PromptSet], saes: dict[str, str], earlier: PromptSet | None = None
) -> ScoreJob:
    """The job for one concept at every hookpoint of its domain; with its `earlier` prompts, if given."""
    domain = run.domain_of(concept)
    if domain is None:
        raise KeyError(concept)
    config = run.config.domains[domain]
    prompts = earlier or sets[concept if run.added_as(concept) else ""]
    wanted = images(prompts.asking(concept), run.config.score, domain, concept, config.score_on)
    return ScoreJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=run.config.score,
        domain=domain,
        concept=concept,
        score_on=config.score_on,
        prompts_id=prompts.id,
        images_id=images_id(wanted),
        saes={h: saes[h] for h in config.hookpoints},
    )
