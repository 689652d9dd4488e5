"""Make the removal of each wanted concept by each method, against its reference set."""

from collections.abc import Iterable
from typing import NamedTuple

from flows.run import Run
from flows.stages.prompts import PromptSet, of_added
from flows.stages.score import SAEs, Scores, score_job
from flows.stages.totals import totals
from saeuron import methods
from saeuron.config import RunConfig
from saeuron.generation import requests
from saeuron.judges import NONE
from saeuron.tuning import learning_images, learning_prompts, validation_images
from tasks.engine import progress
from tasks.engine.job import Made
from tasks.engine.step import publish
from tasks.prompts import images_id
from tasks.score import ScoreJob
from tasks.score import score as score_task
from tasks.trials import TrialsJob
from tasks.trials import trials as trials_task
from tasks.tune import TuneJob
from tasks.tune import tune as task


class Wanted(NamedTuple):
    """One removal: which concept, by which method."""

    concept: str
    method: str

    def __str__(self) -> str:
        return f"{self.concept} by {self.method}"


def tune(
    run: Run, wanted: Iterable[Wanted], sets: dict[str, PromptSet], saes: SAEs, scores: Scores
) -> dict[Wanted, tuple[TuneJob, Made]]:
    """{(concept, method): (job, removal)}; failed ones are missing."""
    # A removal is computed against a dropped concept until it is refreshed.
    dropped = [c for c in sorted(run.dropped) if run.domain_of(c)]
    left = {name: {c: score_job(run, c, sets, mine) for c in dropped} for name, mine in saes.items()}
    others: dict[Wanted, dict[str, ScoreJob]] = {}
    jobs: dict[Wanted, TuneJob] = {}
    for each in wanted:
        method = methods.get(each.method)
        if "latents" not in method.needs:
            jobs[each] = tune_job(run, each, sets, {}, {})
        elif each.concept in scores[method.dictionary]:
            mine = saes[method.dictionary]
            others[each] = left[method.dictionary] | _earlier(run, each.concept, sets, mine)
            known = scores[method.dictionary] | {name: job.id for name, job in others[each].items()}
            jobs[each] = tune_job(run, each, sets, mine, known)
    if jobs and (note := unsearched(run.config)):
        progress.line(note)

    def tried(job: TuneJob) -> TuneJob:
        beyond = others.get(Wanted(job.concept, job.method), {})

        def summed(trials: TrialsJob) -> TrialsJob:
            for name in sorted(beyond.keys() & trials.scores.keys()):
                run.step(score_task, beyond[name])
            if not trials.scores:
                return trials
            return trials.model_copy(update={"totals": totals(run, job.domain, trials.scores.values(), trials.saes)})

        run.step(trials_task, job.trials, prepare=summed)
        return job

    def do(wanted: Wanted) -> Made:
        job = jobs[wanted]
        made = run.step(task, job, prepare=tried)
        # Another judge may choose from these trials, so damaged ones are made again. Deleted ones are not.
        if made.cached and run.opened.manifest_path(job.trials_id).exists():
            tried(job)
        if wanted.method in run.config.method:
            run.publish(publish, job)
        return made

    by_name = {str(wanted): wanted for wanted in jobs}
    made = run.each("tune", jobs, do, str)
    return {by_name[name]: (jobs[by_name[name]], removal) for name, removal in made.items()}


def _earlier(run: Run, concept: str, sets: dict[str, PromptSet], saes: dict[str, str]) -> dict[str, ScoreJob]:
    """Score jobs with the earlier prompts, for reference concepts whose prompts changed since the removal was made."""
    pinned = run.roster.as_pinned(concept)
    return {name: score_job(run, name, sets, saes, of_added(run, then)) for name, then in pinned.items()}


def unsearched(config: RunConfig) -> str:
    """A line for the user if a missing judge leaves figures empty and settings unsearched; empty otherwise."""
    without = [domain for domain, d in config.domains.items() if d.judge == NONE]
    if not without:
        return ""
    what = "nothing is judged" if len(without) == len(config.domains) else "its pictures are not judged"
    return (
        f"no judge for {', '.join(without)}: {what}, figures that need it are '-', and settings are not searched (each "
        "removal takes the mildest of its grid); set domains.NAME.judge"
    )


def tune_job(
    run: Run, wanted: Wanted, sets: dict[str, PromptSet], saes: dict[str, str], scores: dict[str, str]
) -> TuneJob:
    """The removal of one concept by one method, against the concept's reference set."""
    concept, config = wanted.concept, run.config.tune
    domain = next(d for d, names in run.domain_concepts.items() if concept in names)
    method = methods.get(wanted.method)
    latents = "latents" in method.needs
    mine = [sets[s] for s in ("", concept) if s == "" or run.added_as(concept)]
    prompts = [p for s in mine for p in s.prompts]
    reference = [c for c in run.roster.reference(run.config, concept) if c in scores or not latents]
    judged = not run.unjudged(concept)
    learned = learning_images(method.needs, prompts, config, domain, concept, reference)
    learning = [images_id(part) for part in learned if part]
    if "prompts" in method.needs:
        told = learning_prompts(prompts, config, domain, concept, reference)
        learning += [images_id(requests(part, 1)) for part in told]
    hookpoints = run.config.domains[domain].hookpoints if method.needs & {"latents", "activations"} else ()
    candidates = method.candidates(method.told(run.config, domain))
    # A single candidate is taken without a judge: validation images would decide nothing.
    chosen_by = run.judges(concept) if judged and len(candidates) > 1 else {}
    trials = TrialsJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=config,
        domain=domain,
        concept=concept,
        method=wanted.method,
        candidates=tuple(candidates if judged else candidates[:1]),
        reference=tuple(reference),
        prompts_ids=tuple(s.id for s in mine),
        images_id=images_id(validation_images(prompts, config, domain, concept, reference)) if chosen_by else "",
        learning_id=" ".join(learning),
        hookpoints=hookpoints,
        saes={h: saes[h] for h in hookpoints} if latents else {},
        scores={c: scores[c] for c in reference} if latents else {},
    )
    return TuneJob(
        workspace=run.workspace,
        trials=trials,
        trials_id=trials.id,
        domain=domain,
        concept=concept,
        method=wanted.method,
        domains=tuple(run.config.domains),
        judges=chosen_by,
    )
