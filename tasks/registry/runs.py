"""Records of runs, and the configuration that later commands use."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from storage import Workspace
from storage.errors import StorageError
from storage.files import read_json
from storage.identity import digest
from tasks.registry.records import RecordDamaged, parsed, write

CONFIG = "run.json"
CONFIG_SEAL = "remembered.sha256"
"""File in the folder of runs with the SHA-256 of run.json, which is a plain configuration and holds no seal."""
GATE = "gate"
"""The lock under which runs begin, artifacts are deleted and damage is set aside."""


LEAVE_OUT = "leave-out"
"""Name of the flow that leaves concepts out. Its removals are only measured, never published."""


class Record(BaseModel):
    """One run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    number: int
    """Runs count from 1 in the order in which they began, whatever the clock says."""
    flow: str
    state: Literal["running", "completed", "failed", "interrupted"] = "running"
    started: datetime
    finished: datetime | None = None
    made: int = 0
    cached: int = 0
    failed: int = 0
    message: str = ""
    command: str = ""
    """The command line that started it; empty if a deployment or a script did."""
    artifacts: dict[str, bool] | None = None
    """{artifact: whether it existed before}; None until the run has ended."""
    config: str
    """SHA-256 of its configuration, which is `configs/RUN_ID.json`."""


def record(path: Path) -> Record:
    """The record of a run. Raises ArtifactMissing or RecordDamaged."""
    return parsed(Record, path)


def records(workspace: Workspace) -> list[Record]:
    """The records of all runs, in the order in which they began. Damaged ones are left out: see `saeuron verify`.

    A run whose process is dead is `interrupted`, though its file says `running`.
    """
    found = []
    for path in workspace.runs.glob("*.json"):
        with suppress(StorageError):
            found.append(record(path))
    if unended := {r.run_id for r in found if r.state == "running"} - {*workspace.alive()}:
        found = [_ended(workspace, r) if r.run_id in unended else r for r in found]
    return sorted(found, key=lambda r: (r.number, r.run_id))


def _ended(workspace: Workspace, dead: Record) -> Record:
    # It may have ended between the look at its record and that at its lock.
    now = record(workspace.runs / f"{dead.run_id}.json")
    return now.model_copy(update={"state": "interrupted"}) if now.state == "running" else now


def start(workspace: Workspace, flow: str, config: RunConfig, command: str = "") -> str:
    """Record the start of a run and its configuration; returns its id. Half-written files of killed runs are deleted.

    The caller must hold the lock GATE; otherwise two runs could get one number.
    """
    workspace.sweep()
    now, number = datetime.now(UTC), 1 + max((r.number for r in records(workspace)), default=0)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    text = _text(config)
    began = Record(run_id=run_id, number=number, flow=flow, started=now, command=command, config=digest(text))
    write(workspace, workspace.runs / f"{run_id}.json", began)
    workspace.write(workspace.runs / "configs" / f"{run_id}.json", text)
    return run_id


def finish(
    workspace: Workspace,
    run_id: str,
    state: str,
    counts: Mapping[str, int],
    message: str = "",
    artifacts: Mapping[str, bool] | None = None,
) -> None:
    """Record how a run ended (completed, failed, interrupted) and its artifacts, {artifact: whether it existed}."""
    path = workspace.runs / f"{run_id}.json"
    end = {"state": state, "finished": datetime.now(UTC), "message": message}
    known = None if artifacts is None else dict(artifacts)
    write(workspace, path, Record.model_validate({**record(path).model_dump(), **end, **counts, "artifacts": known}))


@contextmanager
def living(workspace: Workspace, flow: str, config: RunConfig, command: str = "") -> Iterator[str]:
    """Start a run, and hold a lock during the block that shows it is alive; the lock ends with the process."""
    with ExitStack() as held:
        with workspace.lock(GATE):
            run_id = start(workspace, flow, config, command)
            held.enter_context(workspace.living(run_id))
        yield run_id


def remember(workspace: Workspace, config: RunConfig) -> None:
    """Store the configuration that later commands on this workspace use."""
    path, text = workspace.root / CONFIG, _text(config)
    seal = workspace.runs / CONFIG_SEAL

    def write() -> None:
        for file, data in ((seal, digest(text).encode()), (path, text)):
            if not file.exists() or file.read_bytes() != data:
                workspace.write(file, data)

    workspace.agreed(write)


def remembered(workspace: Workspace) -> RunConfig:
    """The configuration of the last run.

    Raises:
        ConfigError: there was none.
        RecordDamaged: the file was changed or damaged.
    """
    path, seal = workspace.root / CONFIG, workspace.runs / CONFIG_SEAL
    if not path.exists():
        raise ConfigError(f"nothing has been run in {workspace.address} yet; start with: saeuron run --workspace DIR")
    if seal.exists() and (sha := digest(path)) != (known := seal.read_text("utf-8", "replace")):
        raise RecordDamaged(path, f"SHA-256 {known[:12]}…", f"{sha[:12]}…")
    return parsed(RunConfig, path, read_json)


def _text(config: RunConfig) -> bytes:
    # The order of domains and hookpoints is part of a configuration, so keys are not sorted.
    return (config.model_dump_json(indent=2) + "\n").encode()
