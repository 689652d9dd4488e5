"""The flow that deployments run: a configuration by name, so that the form in Prefect's page stays small."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows import runners
from flows.check import check, check_device
from flows.config import load
from flows.pipeline import launch
from storage import Workspace
from tasks import runs


@flow(name="scheduled", flow_run_name="{config} in {workspace}")
def scheduled(
    config: str = "canvas",
    settings: list[str] | None = None,
    workspace: str = "workspace",
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Run the pipeline on a schedule; it fails, with what was finished kept, if any step failed.

    Args:
        config: YAML file on the worker, or the name of an embedded configuration.
        settings: KEY.KEY=VALUE, over the file.
        workspace: folder of everything that is made.
        device: where models run.
        threads: torch threads on the CPU.
    """
    chosen = load(config, settings or ())
    runners.check(chosen, device)
    if not chosen.runner.address:
        check_device(device)
    check(chosen)
    runs.remember(Workspace.open(Path(workspace)), chosen)
    result = launch(chosen, workspace, None, device, threads)
    if result["failures"]:
        raise RuntimeError("; ".join(f"{what}: {why}" for what, why in result["failures"]))
    return result
