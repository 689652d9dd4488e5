"""Train one SAE per hookpoint."""

from flows.run import Run
from tasks.train import TrainJob
from tasks.train import train as task


def train(run: Run, captured: dict[str, str]) -> dict[str, str]:
    """{hookpoint: SAE id}."""

    def do(hookpoint: str) -> str:
        job = TrainJob(
            workspace=run.workspace,
            device=run.device,
            config=run.config.train,
            hookpoint=hookpoint,
            capture_id=captured[hookpoint],
        )
        return run.step(task, job).id

    hookpoints = run.config.hookpoints
    return dict(zip(hookpoints, run.every("train", hookpoints, do), strict=True))
