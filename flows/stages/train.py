"""Train one SAE per hookpoint that was not given one, and those that controls need."""

from collections.abc import Mapping

from flows.run import Run
from saeuron.sae.config import Dictionary
from storage import Workspace
from tasks.registry import saes
from tasks.train import TrainJob
from tasks.train import train as task


def train_without(run: Run, captured: Mapping[str, str], domain: str, concepts: tuple[str, ...]) -> dict[str, str]:
    """{hookpoint: SAE id} at a domain's hookpoints, trained on the rows of images that ask for none of the concepts."""

    def do(hookpoint: str) -> str:
        job = TrainJob(
            workspace=run.workspace,
            device=run.device,
            config=run.config.train,
            hookpoint=hookpoint,
            capture_id=captured[hookpoint],
            without={domain: tuple(sorted(concepts))},
        )
        return run.step(task, job).id

    places = run.config.domains[domain].hookpoints
    return dict(zip(places, run.every("train", places, do), strict=True))


def train(run: Run, captured: Mapping[str, str], dictionary: Dictionary = "trained") -> dict[str, str]:
    """{hookpoint: SAE id}; given SAEs stand among the trained ones."""

    def do(hookpoint: str) -> str:
        job = TrainJob(
            workspace=run.workspace,
            device=run.device,
            config=run.config.train if dictionary == "trained" else run.config.train.learning(dictionary),
            hookpoint=hookpoint,
            capture_id=captured[hookpoint],
        )
        return run.step(task, job).id

    trained = dict(zip(captured, run.every("train", captured, do), strict=True))
    if dictionary != "trained":
        return trained
    known = saes.given(Workspace(run.workspace), run.config.saes)
    return {hookpoint: (known | trained)[hookpoint] for hookpoint in run.config.hookpoints}
