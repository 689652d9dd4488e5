"""README's way to a schedule, on loopback: a pool, `prefect deploy --all`, and a worker that takes the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.environment import QUIET
from storage import Workspace
from storage.query import run_query
from tests.end_to_end.process import LARGE, TINY

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def environment(server: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from prefect.settings import PREFECT_API_URL

    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | QUIET
    home = str(tmp_path_factory.mktemp("prefect"))
    return mine | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_HOME": home, "SAEURON_HOME": str(ROOT)}


def prefect(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "prefect", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_worker_runs_what_was_deployed(environment: dict[str, str], changed: Path) -> None:
    prefect(environment, "work-pool", "create", "saeuron", "--type", "process")
    said = prefect(environment, "--no-prompt", "deploy", "--all")
    assert "'scheduled/nightly' successfully created" in said
    before = len(run_query(Workspace.open(changed), "select * from runs"))
    parameters = {"config": str(TINY), "settings": LARGE[1::2], "workspace": str(changed), "threads": 1}
    prefect(environment, "deployment", "run", "scheduled/nightly", "--params", json.dumps(parameters))
    prefect(environment, "worker", "start", "--pool", "saeuron", "--run-once")
    runs = run_query(Workspace.open(changed), "select state, made from runs order by number").to_pylist()
    assert len(runs) == before + 1
    # All of it was there: the schedule, too, pays only for what is new.
    assert runs[-1] == {"state": "completed", "made": 0}
