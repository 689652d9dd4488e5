"""SAEs like one that was trained, but for their dictionary: what a figure of it stands beside."""

from flows.run import Run
from saeuron.sae.config import Dictionary, SAEConfig
from storage.manifests import Manifest
from tasks.engine import progress
from tasks.train import TrainJob, train

CONTROLS: tuple[Dictionary, ...] = ("untrained", "frozen")


def controls_of(run: Run, sae: Manifest, capture: Manifest | None) -> dict[str, str]:
    """{dictionary: id of the control}, trained if missing; none without the activations of the SAE."""
    found: dict[str, str] = {}
    if capture is not None:
        for i, dictionary in enumerate(CONTROLS):
            progress.stage("controls", i, len(CONTROLS))
            found[dictionary] = control(run, sae, capture, dictionary)
    return found


def control(run: Run, sae: Manifest, capture: Manifest, dictionary: Dictionary) -> str:
    """Id of the same SAE with another dictionary, trained if it is missing."""
    job = TrainJob(
        workspace=run.workspace,
        device=run.device,
        config=SAEConfig.model_validate(sae.config["config"]).learning(dictionary),
        hookpoint=sae.summary["hookpoint"],
        capture_id=capture.id,
    )
    return run.step(train, job).id
