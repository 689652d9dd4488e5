"""Train one SAE per hookpoint that was not given one."""

from collections.abc import Mapping

from flows.run import Run
from storage import Workspace
from tasks.registry import saes
from tasks.train import TrainJob
from tasks.train import train as task


def train(run: Run, captured: Mapping[str, str]) -> dict[str, str]:
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

    trained = dict(zip(captured, run.every("train", captured, do), strict=True))
    known = saes.given(Workspace(run.workspace), run.config.saes)
    return {hookpoint: (known | trained)[hookpoint] for hookpoint in run.config.hookpoints}
