"""The controls of a run, and the comparison of each method with its controls."""

from collections.abc import Mapping

from flows.run import Run
from flows.stages.tune import Wanted
from saeuron import methods
from saeuron.config import RunConfig
from tasks.compare import Compared, CompareJob
from tasks.compare import compare as task
from tasks.engine.job import Made
from tasks.evaluate import EvaluateJob


def wanted_of(config: RunConfig, concepts: list[str]) -> list[Wanted]:
    """Every removal of these concepts: by each method, then by each control."""
    return [Wanted(c, method) for c in concepts for method in (*config.method, *controls(config, c))]


def controlled(config: RunConfig) -> tuple[str, ...]:
    """The chosen methods that have controls: those that read an SAE and are not controls themselves."""
    reading = [name for name in config.method if methods.get(name).reads_sae]
    return tuple(name for name in reading if name not in config.controls.methods)


def controls(config: RunConfig, concept: str) -> tuple[str, ...]:
    """The controls to run for a concept in addition to the chosen methods."""
    chosen = config.controls.concepts
    if not controlled(config) or (chosen is not None and concept not in chosen):
        return ()
    return tuple(name for name in config.controls.methods if name not in config.method)


def own_controls(config: RunConfig, method: str) -> tuple[str, ...]:
    """The controls that a method is compared with: those that are like it, and those that belong to no method.

    A control with another kind of edit would measure the edit, not the training of the SAE.
    """
    return tuple(name for name in config.controls.methods if methods.get(name).like in ("", method))


def compare(run: Run, evaluations: Mapping[Wanted, tuple[EvaluateJob, Made]]) -> list[Made]:
    """The comparisons of each domain, over the concepts that were evaluated with both; nothing is generated."""
    jobs = []
    for domain, concepts in run.domain_concepts.items():
        for method in controlled(run.config):
            for control in own_controls(run.config, method):
                both = [(c, Wanted(c, method), Wanted(c, control)) for c in concepts]
                pairs = [
                    Compared(concept=c, method=_seen(evaluations[one]), control=_seen(evaluations[other]))
                    for c, one, other in both
                    if one in evaluations and other in evaluations
                ]
                if pairs:
                    jobs.append(
                        CompareJob(
                            workspace=run.workspace,
                            domain=domain,
                            domains=tuple(run.config.domains),
                            method=method,
                            control=control,
                            pairs=tuple(pairs),
                        )
                    )
    made = run.each("compare", jobs, lambda job: run.step(task, job), lambda job: job.label) if jobs else {}
    return [*made.values()]


def _seen(evaluated: tuple[EvaluateJob, Made]) -> dict[str, tuple[str, ...]]:
    """{image set generated with the removal: its judgements}."""
    job, _ = evaluated
    return {i: job.judgements[i] for i in job.edited}
