"""SAEs that a configuration names by where they lie: brought into the workspace before a run."""

from collections.abc import Mapping
from pathlib import Path

from flows.hints import command
from saeuron.config import RunConfig
from saeuron.errors import ConfigError

HUB = "hub:"
"""Begins the name of an SAE on the hub: `hub:owner/name[@revision][:folder]`."""


def elsewhere(saes: Mapping[str, str]) -> dict[str, str]:
    """{hookpoint: place} of those that are not ids of the workspace: `hub:...`, or a folder that is there."""
    return {
        hookpoint: name.removeprefix(HUB)
        for hookpoint, name in saes.items()
        if name.startswith(HUB) or Path(name).expanduser().is_dir()
    }


def brought(config: RunConfig, workspace: Path) -> RunConfig:
    """The configuration with ids in place of folders and hub ids, whose SAEs are imported, once.

    Raises:
        BadSAE, WidthMismatch, UnknownName: as `saeuron sae import`.
    """
    places = elsewhere(config.saes)
    if not places:
        return config
    # It imports torch.
    from tasks.exchange.interchange import bring

    ids = {h: bring(workspace, place, h, config.model.spec)[0].id for h, place in places.items()}
    return config.model_copy(update={"saes": config.saes | ids})


def refuse(config: RunConfig, workspace: Path) -> None:
    """Raise for SAEs of elsewhere where nothing may be written."""
    for hookpoint, place in elsewhere(config.saes).items():
        first = command("sae", "import", place, "--hookpoint", hookpoint, workspace=workspace)
        raise ConfigError(
            f"saes: a plan changes nothing, so it cannot bring {place!r}. First: {first}; then name the id that it "
            "says."
        )
