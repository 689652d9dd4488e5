"""The pipeline as a Prefect flow, with the workers that its configuration asks for."""

from typing import Any

from prefect import flow

from flows import runners, server
from flows.pipeline import pipeline
from saeuron.config import RunConfig

pipeline_flow = flow(name="pipeline", flow_run_name="pipeline in {workspace}", validate_parameters=True)(pipeline)


def launch(config: RunConfig, workspace: str, concepts: list[str] | None, device: str, threads: int) -> dict[str, Any]:
    """Run the flow; its workers end with it. Arguments and result as those of `flows.pipeline.pipeline`."""
    if config.runner.kind == "threads":
        return pipeline_flow(config, workspace, concepts, device, threads)
    workers = runners.width(config.runner, device, runners.threads(config, threads))
    with server.reachable():
        flow_ = pipeline_flow.with_options(task_runner=runners.task_runner(config.runner, workers))
        return flow_(config, workspace, concepts, device, threads)
