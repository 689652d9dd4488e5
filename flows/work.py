"""The work of commands and deployments, as arguments of the pipeline."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flows import runners
from flows.check import check, check_added, check_device, check_saes
from flows.sae import given
from flows.upkeep.refresh import check_present
from saeuron.config import ConceptConfig, RunConfig
from storage import Workspace
from storage.published import published
from tasks.registry import concepts, runs
from tasks.registry.concepts import Roster


class Work(NamedTuple):
    """Arguments of `flows.pipeline.pipeline`."""

    config: RunConfig
    concepts: list[str] | None
    """Concepts to remove and evaluate; None: those of the configuration, and every added one."""


def add_concept(workspace: Workspace, new: ConceptConfig) -> Work:
    """Register a concept, or bring back a dropped one.

    Raises:
        ConfigError: nothing was run in the workspace yet, or the concept cannot join it.
    """
    config = runs.remembered(workspace)
    if config.domain_of(new.name) and new.name in Roster.of(workspace, config).dropped:
        concepts.restore(workspace, config, new)
        # A concept outside of tune.concepts that had no removal gets none now.
        asked = config.tune.concepts is None or new.name in config.tune.concepts
        made = any(about.concept == new.name for about in published(workspace).values())
        return Work(config, [new.name] if asked or made else [])
    check_added(new, config)
    concepts.add(workspace, config, new)
    return Work(config, [new.name])


def measure(workspace: Workspace, names: Sequence[str] = (), seeds: int | None = None) -> Work:
    """The removals of these concepts, or of those of the run, on `seeds` images of each test prompt.

    Raises:
        ConfigError: nothing was run in the workspace yet, or a concept was dropped.
        UnknownName: there is no such concept.
    """
    config = runs.remembered(workspace)
    roster = Roster.of(workspace, config)
    for name in names:
        check_present(name, config, roster)
    if seeds is not None:
        config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"seeds": seeds})})
    return Work(config, list(names) or None)


def check_all(config: RunConfig, device: str, workspace: Workspace, weights: bool = True) -> None:
    """Raise the first mistake of a configuration, before anything heavy is loaded; `weights` as for `check`."""
    runners.check(config, device)
    if not config.runner.address:
        check_device(device)
    check(config, workspace, weights)
    check_saes(config, workspace)


def do(work: Work, workspace: Workspace, device: str, threads: int, keep_config: bool = False) -> dict[str, Any]:
    """Check, and run every stage inside the flow that calls this.

    A flow run within another would cost a second and stay "running" when the process is killed. With workers there is
    one nevertheless, because they belong to it.

    Raises:
        RuntimeError: a step failed; what was finished is kept.
    """
    config = given.brought(work.config, workspace.root)
    check_all(config, device, workspace)
    from flows.flow import launch
    from flows.pipeline import pipeline

    if keep_config:
        runs.remember(workspace, config)
    run = pipeline if config.runner.kind == "threads" else launch
    result: dict[str, Any] = run(config, str(workspace.root), work.concepts, device, threads)
    if result["failures"]:
        raise RuntimeError("; ".join(f"{what}: {why}" for what, why in result["failures"]))
    return result
