"""The whole method, in order: prompts, capture, train, score, tune, evaluate, compare."""

from collections.abc import Callable, Iterable
from typing import Any, cast, get_args

from flows import runners
from flows.environment import server_address
from flows.run import Run
from flows.stages.calibrate import calibrate
from flows.stages.capture import capture
from flows.stages.compare import compare, wanted_of
from flows.stages.evaluate import evaluate
from flows.stages.prompts import prompts
from flows.stages.score import Scores, score
from flows.stages.train import train
from flows.stages.tune import Wanted, tune
from saeuron import methods
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, SaeuronError
from saeuron.sae.config import Dictionary
from storage import Workspace
from storage.errors import StorageError
from storage.identity import split_id
from tasks.engine import model, progress
from tasks.engine.job import Job, Made, Ran
from tasks.engine.step import Step, publish
from tasks.engine.worker import Worker
from tasks.stages import from_elsewhere
from tasks.tune import TuneJob


def pipeline(
    config: RunConfig,
    workspace: str = "workspace",
    concepts: list[str] | None = None,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Remove the concepts of a configuration from its model, and measure what went and what stayed.

    Args:
        config: what to do.
        workspace: folder of everything that is made, or s3://BUCKET/PREFIX; what is there already is not made again.
        concepts: remove and evaluate these; None: `config.tune.concepts`, or all, and every added one.
        device: where models run, `cpu`, `cuda`, `cuda:1`.
        threads: torch threads on the CPU; workers on this machine share them.

    Returns:
        {"run_id", "counts", "failures", "evaluations": [summary], "comparisons": [summary], "removals": [summary],
        "saes": {hookpoint: id}}; the SAEs are those of the chosen method, not of a control.
    """
    threads = runners.threads(config, threads)
    model.set_threads(threads)
    run = Run.of(Workspace.open(workspace), config, device)
    _check_present(run, concepts or [])
    with run.recorded("pipeline") as run_id:
        if config.runner.kind != "threads":
            run.worker = Worker(run=run_id, threads=threads, devices=config.runner.devices)
            run.width = runners.width(config.runner, device, threads)
        result = stages(run, concepts)
    _report(run, run_id)
    return {"run_id": run_id, "counts": run.counts, "failures": run.failures, **result}


def _report(run: Run, run_id: str) -> None:
    """Write the report of a run that is looked at on Prefect's page, and show it there; without it, the run is done."""
    if not server_address():
        return
    from tasks.engine import page

    if not page.watched():
        return
    from flows.explore.report import Subject

    try:
        subject = Subject(run.opened, run_id)
        page.show_report(run.workspace, subject.write(), [m.summary for m in subject.evaluations])
    except (SaeuronError, StorageError, OSError) as error:
        progress.line(f"no report was written: {error}")


def _check_present(run: Run, concepts: list[str]) -> None:
    """Raise for a dropped concept that was asked for by name; print the dropped ones that are left out."""
    for concept in concepts:
        if concept in run.dropped:
            raise ConfigError(f"concept {concept!r} was dropped; `saeuron concept add FILE` brings it back.")
    if left := sorted(c for c in run.dropped if run.domain_of(c)):
        progress.line(f"left out: {', '.join(left)} (dropped; `saeuron concept add FILE` brings it back)")


def wanted(run: Run) -> list[str]:
    """The concepts that a run removes if none are named: `config.tune.concepts`, or all, and every added one."""
    chosen = run.config.tune.concepts
    everything = [c for names in run.domain_concepts.values() for c in names]
    named = everything if chosen is None else [*chosen, *(a.name for a in run.added)]
    return [c for c in named if c not in run.dropped]


def _added(run: Run, stage: type[Job]) -> None:
    """Make the artifacts of a stage from elsewhere."""
    made: dict[str, tuple[str, ...]] = {}
    for artifact in run.artifacts:
        name, _ = split_id(artifact)
        made[name] = (*made.get(name, ()), artifact)

    def do(item: tuple[Callable[[Any], Made], Job]) -> Made:
        task, job = item
        done = run.step(cast(Step, task), job)
        run.publish(publish, job)
        return done

    jobs = list(stage.jobs(Ran(run.config, run.workspace, run.model_id, run.device, made)))
    if jobs:
        run.each(stage.stage, jobs, do, lambda item: item[1].label)


def _dictionaries(config: RunConfig, removed: Iterable[Wanted]) -> list[Dictionary]:
    """The kinds of SAEs that the chosen methods and these removals need, trained ones first."""
    used = [methods.get(name) for name in {*config.method, *(w.method for w in removed)}]
    needed = {method.dictionary for method in used if "latents" in method.needs}
    return [d for d in get_args(Dictionary) if d in needed]


def removals_of(
    run: Run, removed: list[Wanted]
) -> tuple[dict[Wanted, tuple[TuneJob, Made]], dict[Dictionary, dict[str, str]]]:
    """Make some removals and what they need; ({(concept, method): (job, removal)}, {kind of SAE: {hookpoint: id}})."""
    sets = prompts(run)
    saes: dict[Dictionary, dict[str, str]] = {}
    scores: Scores = {}
    if dictionaries := _dictionaries(run.config, removed):
        captured = capture(run, sets[""])
        saes = {dictionary: train(run, captured, sets[""], dictionary) for dictionary in dictionaries}
        scores = score(run, sets, saes)
    calibrate(run, removed, sets)
    return tune(run, removed, sets, saes, scores), saes


def stages(run: Run, concepts: list[str] | None = None) -> dict[str, Any]:
    """Every stage in order; `concepts` as in `pipeline`."""
    elsewhere = from_elsewhere()
    if concepts is None:
        concepts = wanted(run)
    removals, saes = removals_of(run, wanted_of(run.config, concepts))
    evaluations = evaluate(run, removals)
    comparisons = compare(run, evaluations)
    for stage in elsewhere:
        _added(run, stage)
    return {
        "evaluations": [{"id": made.id, **made.summary} for _, made in evaluations.values()],
        "comparisons": [{"id": made.id, **made.summary} for made in comparisons],
        "removals": [{"id": made.id, **made.summary} for _, made in removals.values()],
        "saes": next(iter(saes.values()), {}),
    }
