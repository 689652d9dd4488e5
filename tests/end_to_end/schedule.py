"""What tests of schedules share: README's commands, and questions to a Prefect server."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.end_to_end.process import LARGE, TINY

ROOT = Path(__file__).parents[2]


def readme() -> list[str]:
    """The commands of README's section."""
    section = (ROOT / "README.md").read_text().split("## On a schedule")[1]
    block = re.findall(r"^```\n(.*?)^```", section, re.S | re.M)[0]
    return [line.split("#")[0].strip() for line in block.splitlines()]


def words(line: str) -> list[str]:
    """A line of README as this interpreter runs it."""
    program, *rest = shlex.split(line)
    return [sys.executable, "-m", {"saeuron": "flows.cli"}.get(program, program), *rest]


def call(environment: dict[str, str], line: str) -> str:
    done = subprocess.run(words(line), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def parameters(workspace: Path, *settings: str) -> dict[str, Any]:
    what = {"file": str(TINY), "settings": [*LARGE[1::2], *settings]}
    return {"what": what, "machine": {"workspace": str(workspace), "threads": 1}}


def ended(client: Any, run_id: UUID) -> Any:
    """The flow run, once it is over."""
    found = client.read_flow_run(run_id)
    return found if found.state.is_final() else None


def states(client: Any, run_id: UUID) -> list[str]:
    return [state.name for state in client.read_flow_run_states(run_id)]


def artifacts(client: Any, run_id: UUID) -> dict[str, Any]:
    """Those of a run, by key; of one that was made again the last."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])))
    return {a.key: a for a in sorted((a for a in found if a.key), key=lambda a: a.created)}


def events(client: Any, name: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"name": [name]}}, "limit": 50}
    return client.request("POST", "/events/filter", json=body).json()["events"]


def changed_to(automation: Any, **fields: Any) -> Any:
    """An automation as the server takes it for an update."""
    from prefect.events.schemas.automations import AutomationCore

    return AutomationCore.model_validate(automation.model_dump(exclude={"id", "owner_resource"}) | fields)


def automation(client: Any, words: str) -> Any:
    """The one whose name ends so."""
    (found,) = [a for a in client.read_automations() if a.name.endswith(words)]
    return found


def hurry(client: Any, words: str, seconds: int, **more: Any) -> None:
    """Let an automation wait for seconds, ten at least, in place of minutes."""
    found = automation(client, words)
    client.update_automation(
        found.id, changed_to(found, trigger=found.trigger.model_dump() | {"within": seconds} | more)
    )
