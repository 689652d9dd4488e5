"""Train one SAE per hookpoint."""

from flows.run import Run
from tasks import progress
from tasks.train import TrainJob
from tasks.train import train as task


def train(run: Run, captured: dict[str, str]) -> dict[str, str]:
    """{hookpoint: SAE id}."""
    ids = {}
    for i, hookpoint in enumerate(run.config.hookpoints):
        progress.stage("train", i, len(run.config.hookpoints))
        job = TrainJob(
            workspace=run.workspace,
            device=run.device,
            config=run.config.train,
            hookpoint=hookpoint,
            capture_id=captured[hookpoint],
        )
        ids[hookpoint] = run.step(task, job).id
    progress.stage("train", len(ids), len(ids))
    return ids
