"""Gather the statistics of every concept, added ones included."""

from flows.run import Run
from tasks.score import ScoreJob
from tasks.score import score as task
from tasks.step import Made


def score(run: Run, prompts_ids: dict[str, str], saes: dict[str, str]) -> dict[str, str]:
    """{concept: score id}; a concept that failed is missing."""

    def do(item: tuple[str, str]) -> Made:
        domain, concept = item
        config = run.config.domains[domain]
        job = ScoreJob(
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
        return run.step(task, job)

    items = [(d, c) for d, concepts in run.domain_concepts.items() for c in concepts]
    return {concept: made.id for concept, made in run.each("score", items, do, lambda item: item[1]).items()}
