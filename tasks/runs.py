"""The record of a run: what it was asked, how it ended, what it made. It stays in the workspace."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError
from storage import Workspace
from storage.files import read_json, write_atomic, write_json

CONFIG = "run.json"


def start(workspace: Workspace, flow: str, config: RunConfig) -> str:
    """Note that a run begins, and with what; returns its id. What killed runs left half written is removed."""
    workspace.sweep()
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    record = {
        "run_id": run_id,
        "flow": flow,
        "state": "running",
        "started": now.isoformat(timespec="seconds"),
        "finished": None,
        "made": 0,
        "cached": 0,
        "failed": 0,
        "message": "",
    }
    write_json(workspace.runs / f"{run_id}.json", record)
    write_json(workspace.runs / "configs" / f"{run_id}.json", config.model_dump(mode="json"))
    return run_id


def finish(workspace: Workspace, run_id: str, state: str, counts: Mapping[str, int], message: str = "") -> None:
    """Note how a run ended: completed, failed, interrupted."""
    path = workspace.runs / f"{run_id}.json"
    record = read_json(path)
    record |= {
        "state": state,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "message": message,
        **counts,
    }
    write_json(path, record)


def remember(workspace: Workspace, config: RunConfig) -> None:
    """Keep the configuration that later commands on this workspace go by."""
    # The order of domains and hookpoints is part of a configuration, so keys are not sorted.
    path, text = workspace.root / CONFIG, config.model_dump_json(indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text.encode())


def remembered(workspace: Workspace) -> RunConfig:
    """The configuration of the last run.

    Raises:
        ConfigError: there was none.
    """
    path = workspace.root / CONFIG
    if not path.exists():
        raise ConfigError(f"nothing has been run in {workspace.root} yet; start with: saeuron run --workspace DIR")
    return RunConfig.model_validate(read_json(path))


class Added(ConceptConfig):
    """A concept that was added, and what it was added to."""

    reference: tuple[str, ...]
    """The concepts of its domain that its removal is computed against, itself included: those of that day."""


def added(workspace: Workspace) -> list[Added]:
    """Concepts added to the workspace, in the order of adding."""
    paths = sorted((workspace.root / "concepts").glob("*.json"))
    return [Added.model_validate(read_json(p)) for p in paths]


def joined(workspace: Workspace, config: RunConfig) -> list[Added]:
    """The added concepts that a configuration does not hold itself, of the domains that it knows."""
    return [a for a in added(workspace) if a.domain in config.domains and not config.domain_of(a.name)]


def add(workspace: Workspace, config: RunConfig, concept: ConceptConfig) -> Added:
    """Register a concept; adding the same one again changes nothing.

    Raises:
        ConfigError: the name is taken by another concept.
    """
    present = added(workspace)
    for other in present:
        if other.name == concept.name:
            if other.domain == concept.domain and other.templates == concept.templates:
                return other
            raise ConfigError(f"concept {concept.name!r} was added before, differently; choose another name.")
    names = (*config.domains[concept.domain].concepts, *(a.name for a in present if a.domain == concept.domain))
    record = Added(**concept.model_dump(), reference=(*names, concept.name))
    path = Path(workspace.root / "concepts" / f"{len(present):04d}.json")
    write_json(path, json.loads(record.model_dump_json()))
    return record
