"""Gather the statistics of every concept, added ones included."""

from collections.abc import Mapping

from flows.run import Run
from flows.stages.prompts import PromptSet
from flows.stages.totals import keep
from saeuron.sae.config import Dictionary
from saeuron.scoring import images
from storage import Workspace
from tasks.engine.job import Made
from tasks.prompts import images_id
from tasks.score import ScoreJob, bases
from tasks.score import score as task

SAEs = Mapping[Dictionary, dict[str, str]]
"""{dictionary: {hookpoint: SAE id}}."""
Scores = Mapping[Dictionary, dict[str, str]]
"""{dictionary: {concept: score id}}."""


def score(run: Run, sets: dict[str, PromptSet], saes: SAEs) -> Scores:
    """The statistics of each dictionary, without dropped concepts and those that failed."""
    found: dict[Dictionary, dict[str, str]] = {}
    for dictionary in saes:
        found[dictionary] = _of_dictionary(run, sets, saes, dictionary)
        keep(run, found[dictionary], saes[dictionary], packed=dictionary == next(iter(saes)))
    return found


def _of_dictionary(run: Run, sets: dict[str, PromptSet], saes: SAEs, dictionary: Dictionary) -> dict[str, str]:
    """{concept: score id} of one dictionary. Later dictionaries without statistics are read in the same pass."""
    after = [*saes][[*saes].index(dictionary) + 1 :]

    def based(job: ScoreJob) -> ScoreJob:
        return job.model_copy(update={"bases": bases(job, run.earlier("score"))})

    def do(concept: str) -> Made:
        def beside(job: ScoreJob) -> ScoreJob:
            others = [score_job(run, concept, sets, saes[other]) for other in after]
            missing = tuple(based(other) for other in others if not Workspace(run.workspace).has(other.id))
            return based(job).model_copy(update={"beside": missing})

        return run.step(task, score_job(run, concept, sets, saes[dictionary]), prepare=beside)

    items = [c for concepts in run.domain_concepts.values() for c in concepts]
    return {concept: made.id for concept, made in run.each("score", items, do, lambda concept: concept).items()}


def score_job(
    run: Run, concept: str, sets: dict[str, PromptSet], saes: dict[str, str], earlier: PromptSet | None = None
) -> ScoreJob:
    """The job for one concept at every hookpoint of its domain. `earlier`: prompts to use instead of today's.

    Raises:
        KeyError: no domain has the concept.
    """
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
