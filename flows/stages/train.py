"""Train one SAE for each hookpoint without a given SAE, and those that controls need; thresholds for given ones."""

from collections.abc import Mapping

from flows.run import Run
from flows.stages.prompts import PromptSet
from saeuron.sae.config import Dictionary
from storage import Workspace
from tasks.prompts import images_id
from tasks.registry import saes
from tasks.sae.thresholds import ThresholdsJob, images
from tasks.sae.thresholds import thresholds as take_thresholds
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


def train(
    run: Run, captured: Mapping[str, str], prompts: PromptSet, dictionary: Dictionary = "trained"
) -> dict[str, str]:
    """{hookpoint: SAE id}, in the order of the configuration; given SAEs are included."""

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
    known = with_thresholds(run, saes.given(Workspace(run.workspace), run.config.saes), prompts)
    return {hookpoint: (known | trained)[hookpoint] for hookpoint in run.config.hookpoints}


def with_thresholds(run: Run, given: Mapping[str, str], prompts: PromptSet) -> dict[str, str]:
    """{hookpoint: SAE id} of given SAEs; with `thresholds.images`, TopK SAEs are replaced by ones with thresholds."""
    wanted = run.config.thresholds
    asked = [h for h, i in given.items() if wanted.images and saes.activation(run.opened, i) == "topk"]
    if not asked:
        return dict(given)
    drawn = images_id(each for group in images(prompts.prompts, wanted) for each in group)

    def do(hookpoint: str) -> str:
        job = ThresholdsJob(
            workspace=run.workspace,
            device=run.device,
            model=run.config.model,
            model_id=run.model_id,
            reading=run.config.capture,
            thresholds=wanted,
            hookpoint=hookpoint,
            sae_id=given[hookpoint],
            prompts_id=prompts.id,
            images_id=drawn,
        )
        made = run.step(take_thresholds, job)
        if not made.cached:
            for note in made.summary.get("notes", ()):
                run.say(note)
        return made.id

    return {**given, **dict(zip(asked, run.every("thresholds", asked, do), strict=True))}
