"""Gather the statistics of every concept, added ones included."""

from flows.run import Run
from tasks.score import ScoreJob
from tasks.score import score as task
from tasks.step import Made


def score(run: Run, prompts_ids: dict[str, str], saes: dict[str, str]) -> dict[str, str]:
    """{concept: score id}; a concept that failed is missing, and so is one that was removed."""

    def do(concept: str) -> Made:
        return run.step(task, score_job(run, concept, prompts_ids, saes))

    items = [c for concepts in run.domain_concepts.values() for c in concepts]
    return {concept: made.id for concept, made in run.each("score", items, do, lambda concept: concept).items()}


def score_job(run: Run, concept: str, prompts_ids: dict[str, str], saes: dict[str, str]) -> ScoreJob:
    """The statistics of one concept at every hookpoint of its domain."""
    domain = run.domain_of(concept)
    if domain is None:
        raise KeyError(concept)
    config = run.config.domains[domain]
    return ScoreJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=run.config.score,
        domain=domain,
        concept=concept,
        score_on=config.score_on,
        prompts_id=prompts_ids[concept if run.added_as(concept) else ""],
        saes={h: saes[h] for h in config.hookpoints},
    )
