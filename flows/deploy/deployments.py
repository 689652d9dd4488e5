"""Put the deployments of prefect.yaml, and what they need, on a Prefect server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from saeuron.errors import ConfigError, SaeuronError

POOL = "saeuron"
DEPLOYMENTS = "prefect.yaml"
AUTOMATIONS = "automations.yaml"
HOME = "SAEURON_HOME"
"""Environment variable that prefect.yaml reads: the folder where runs start."""


def home() -> Path:
    """The project's folder. Raises ConfigError if it is not a checkout."""
    folder = Path(__file__).resolve().parents[2]
    for name in (DEPLOYMENTS, AUTOMATIONS):
        if not (folder / name).is_file():
            raise ConfigError(f"there is no {name} in {folder}; deploy from a checkout of the project.")
    return folder


def commands(gpus: int) -> dict[str, list[str]]:
    """{what it creates: command}, in order, for a server that has none of it."""
    return {
        "work pool": ["prefect", "work-pool", "create", POOL, "--type", "process"],
        "gpu limit": ["prefect", "gcl", "create", "gpu", "--limit", str(gpus)],
        "deployments": ["prefect", "--no-prompt", "deploy", "--all"],
        "automations": ["prefect", "automation", "create", "--from-file", AUTOMATIONS],
    }


def automations() -> list[dict[str, Any]]:
    """The automations that ship with the project."""
    found: list[dict[str, Any]] = yaml.safe_load((home() / AUTOMATIONS).read_text(encoding="utf-8"))["automations"]
    return found


def pending(gpus: int) -> dict[str, list[str]]:
    """The `commands` that the server still needs, adapted to what it has; deployments are always included."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    todo = commands(gpus)
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
            del todo["work pool"]
        except ObjectNotFound:
            pass
        try:
            limit = client.read_global_concurrency_limit_by_name("gpu").limit
            todo["gpu limit"] = ["prefect", "gcl", "update", "gpu", "--limit", str(gpus)]
            if limit == gpus:
                del todo["gpu limit"]
        except ObjectNotFound:
            pass
        if any(client.read_automations_by_name(a["name"]) for a in automations()):
            del todo["automations"]
    return todo


def refresh_automations() -> None:
    """Update existing automations and create missing ones; a paused one stays paused."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for values in automations():
            wanted = AutomationCore.model_validate(values)
            found = client.read_automations_by_name(wanted.name)
            if not found:
                client.create_automation(wanted)
            for one in found:
                client.update_automation(one.id, wanted.model_copy(update={"enabled": one.enabled}))


def execute(command: list[str]) -> str:
    """Run one of `commands` in the project's folder; return its output.

    Raises:
        SaeuronError: it failed; the message is its last line.
    """
    words = [sys.executable, "-m", *command]
    environment = {**os.environ, HOME: str(home())}
    done = subprocess.run(words, cwd=home(), env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise SaeuronError(f"`{' '.join(command)}` failed: {lines[-1]}")
    return done.stdout
