"""README's way to a schedule, on loopback: a server, `saeuron deploy --apply`, a worker; what becomes of its runs."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.environment import QUIET
from storage import Workspace
from storage.catalog.query import run_query
from tests.end_to_end.process import LARGE, RETENTION, SERVER, TINY, Cli, run_here, serving, until
from tests.end_to_end.schedule import (
    ROOT,
    artifacts,
    call,
    changed_to,
    ended,
    events,
    hurry,
    parameters,
    readme,
    states,
    words,
)
from tests.flows.deploy.test_notify import Listener

SECRETS = {"HF_TOKEN": "hf_SENTINEL1", "AWS_SECRET_ACCESS_KEY": "SENTINEL2", "MY_API_KEY": "SENTINEL3"}
PATH = "/hooks/SENTINEL4"
"""Of the address that is notified."""
pytestmark = pytest.mark.timeout(400)


QUICK = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
}


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Path]:
    """One that looks every other second for what there is to do, for these tests alone: it costs time all the while."""
    with serving(request.config, **QUICK) as home:
        yield home


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with Listener() as found:
        yield found


@pytest.fixture(scope="module")
def environment(server: Path, listener: Listener, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from prefect.settings import PREFECT_API_URL

    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | QUIET | SECRETS
    return mine | {
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "SAEURON_NOTIFY_URL": listener.url(PATH),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def client(server: Path) -> Iterator[Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as found:
        yield found


@pytest.fixture(scope="module")
def applied(environment: dict[str, str]) -> str:
    """What `saeuron deploy --apply` said, on a server that held nothing of it."""
    return call(environment, "saeuron deploy --apply")


@pytest.fixture(scope="module")
def worker(environment: dict[str, str], applied: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker, as README starts it; its log."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            words("prefect worker start --pool saeuron"),
            cwd=ROOT,
            env=environment | {"PREFECT_WORKER_QUERY_SECONDS": "2"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        yield log
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_readme_starts_the_server_that_is_tested_here() -> None:
    (line,) = [line for line in readme() if "server start" in line]
    assert shlex.split(line) == [*(f"{k}={v}" for k, v in RETENTION.items()), *SERVER]
    assert [line for line in readme() if line and "server start" not in line] == [
        "export PREFECT_API_URL=http://127.0.0.1:4200/api",
        "saeuron deploy",
        "saeuron deploy --apply",
        "prefect worker start --pool saeuron",
        "prefect deployment run scheduled/pipeline",
    ]


def test_deploy_says_what_it_would_run(applied: str) -> None:
    done = run_here("deploy")
    home, variable, *commands = done.out.splitlines()
    assert home == f"cd {ROOT}" and variable == "export SAEURON_HOME=$PWD"
    assert applied.splitlines()[:-1] == commands
    assert applied.splitlines()[-1] == "next: prefect worker start --pool saeuron"
    first = [" ".join(shlex.split(c)[1:3]) for c in commands]
    assert first == ["work-pool create", "gcl create", "--no-prompt deploy", "automation create"]


def test_what_is_there_is_kept(client: Any, applied: str) -> None:
    from flows.deploy import deployments as deploy

    assert set(deploy.pending(1)) == {"deployments"}
    assert deploy.pending(2)["gpu limit"][1:3] == ["gcl", "update"]
    names = sorted(a["name"] for a in deploy.automations())
    assert sorted(a.name for a in client.read_automations()) == names
    paused, other, third = client.read_automations()
    client.update_automation(other.id, changed_to(other, description="of old"))
    client.pause_automation(paused.id)
    deploy.refresh_automations()
    found = {a.id: a for a in client.read_automations()}
    assert set(found) == {paused.id, other.id, third.id}
    assert not found[paused.id].enabled and found[other.id].description == other.description
    client.resume_automation(paused.id)
    client.delete_automation(paused.id)
    deploy.refresh_automations()
    assert sorted(a.name for a in client.read_automations()) == names


@pytest.fixture(scope="module")
def due(client: Any, changed: Path, worker: Path) -> UUID:
    """A schedule whose first run is due in a moment; the id of its deployment."""
    from prefect.client.schemas.schedules import IntervalSchedule

    deployment = client.read_deployment_by_name("scheduled/pipeline")
    assert [s.active for s in deployment.schedules] == [False]
    first = datetime.now(UTC) + timedelta(seconds=6)
    schedule = IntervalSchedule(interval=timedelta(hours=12), anchor_date=first)
    client.update_deployment_schedule(
        deployment.id, deployment.schedules[0].id, active=True, schedule=schedule, parameters=parameters(changed)
    )
    return deployment.id


@pytest.fixture(scope="module")
def begun(client: Any, environment: dict[str, str], changed: Path, due: UUID) -> UUID:
    """A run that has new SAEs to train, by README's last line."""
    said = call(
        environment,
        f"{readme()[-1]} --params {shlex.quote(json.dumps(parameters(changed, 'train.seed=7')))}",
    )
    return UUID(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", said)[0])


@pytest.fixture(scope="module")
def told(client: Any, applied: str) -> dict[str, UUID]:
    """Runs without a process, of which the server was told this and that."""
    from prefect.events import emit_event
    from prefect.states import Crashed, Running, Scheduled

    deployment = client.read_deployment_by_name("evaluate/evaluate")
    later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    attempts = {"never ran": 0, "lost": 1, "third attempt": 3}
    # Should a worker take one, it finds no workspace, and fails.
    nowhere = {"what": {}, "machine": {"workspace": "/nowhere"}}
    runs = {
        name: client.create_flow_run_from_deployment(deployment.id, parameters=nowhere, state=later).id
        for name in attempts
    }
    # Of this run alone: others give a sign of life each minute.
    hurry(client, "not heard of has crashed", 10, match={"prefect.resource.id": f"prefect.flow-run.{runs['lost']}"})
    for name, count in attempts.items():
        for state in [Running(), later] * (count - 1) + [Running()] * min(count, 1):
            client.set_flow_run_state(runs[name], state, force=True)
        # On a busy machine the client asks twice, and the server counts both; "lost" may be at its second attempt too.
        assert count <= client.read_flow_run(runs[name]).run_count <= count + (name != "never ran")
    tag = {"prefect.resource.id": "prefect.tag.saeuron", "prefect.resource.role": "tag"}
    heartbeat = {"prefect.resource.id": f"prefect.flow-run.{runs['lost']}"}
    emit_event("prefect.flow-run.heartbeat", heartbeat, related=[tag])
    for name in ("never ran", "third attempt"):
        client.set_flow_run_state(runs[name], Crashed(message="as a test wants it"))
    return runs


@pytest.fixture(scope="module")
def crashed(client: Any, changed: Path, begun: UUID, told: dict[str, UUID]) -> UUID:
    """The same, its process ended by force while it trained."""
    known = {m.id for m in Workspace.open(changed).artifacts("sae")}

    def checkpoint() -> bool:
        return any(p.parent.name not in known for p in changed.glob("artifacts/sae/*/.checkpoint.safetensors"))

    until(checkpoint, 180, pause=0.01)
    # The worker speaks of a crash some time after the process beside the run: on a busy machine half a minute.
    hurry(client, "run an interrupted run again", 40)
    host_and_pid = client.read_flow_run(begun).infrastructure_pid
    os.kill(int(host_and_pid.split(":")[-1]), signal.SIGKILL)
    until(lambda: "Interrupted" in states(client, begun), 180)
    return begun


@pytest.fixture(scope="module")
def killed(client: Any, crashed: UUID) -> Any:
    """The same, after an automation ran it again."""
    until(lambda: client.read_flow_run(crashed).run_count == 2, 180)
    return until(lambda: ended(client, crashed), 180)


def test_a_run_that_the_scheduler_made_is_taken_by_the_worker(client: Any, due: UUID, changed: Path) -> None:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    mine = DeploymentFilter(id=DeploymentFilterId(any_=[due]))

    def over() -> Any:
        runs = client.read_flow_runs(deployment_filter=mine)
        return next((r for r in runs if r.auto_scheduled and r.state.is_final()), None)

    run = until(over, 120)
    assert run.state.name == "Completed", run.state.message
    assert run.created_by.type == "SCHEDULE" and "auto-scheduled" in run.tags
    last = run_query(Workspace.open(changed), "select state, made from runs order by number").to_pylist()
    # All of it was there: the schedule, too, pays only for what is new.
    assert {"state": "completed", "made": 0} in last
    # Nothing was made, so there are no bars and pictures; what the run says is shown.
    assert set(artifacts(client, run.id)) == {"run-figures", "run-report"}


def test_a_crash_is_noted(client: Any, crashed: UUID) -> None:
    assert states(client, crashed)[-3:] == ["Running", "Crashed", "Interrupted"]


@pytest.fixture(scope="module")
def by_hand(cli: Cli, environment: dict[str, str], workspace: Path, workspaces: Path) -> Path:
    """A workspace in which somebody ran something, with a server and with secrets in the environment."""
    mine = shutil.copytree(workspace, workspaces / "by-hand")
    called = Cli(cli.folder)
    called.environment |= {"PREFECT_API_URL": environment["PREFECT_API_URL"], **SECRETS}
    done = called.run(mine, *LARGE)
    assert done.code == 0, done.err
    return mine


def test_a_run_by_hand_reports_to_the_server_and_to_its_workspace(
    client: Any, crashed: UUID, by_hand: Path, workspace: Path, original: Path
) -> None:
    (run,) = [r for r in client.read_flow_runs(limit=200) if r.name == f"pipeline in {by_hand}"]
    assert run.state.name == "Completed"
    records = [len(run_query(Workspace.open(w), "select * from runs")) for w in (workspace, by_hand)]
    assert records[1] == records[0] + 1
    # And the first of all, which had no server: its history is in its workspace alone.
    with contextlib.closing(sqlite3.connect(workspace / ".prefect" / "prefect.db")) as own:
        flow_runs, shown = own.execute(
            "select (select count(*) from flow_run), (select count(*) from artifact)"
        ).fetchone()
    assert flow_runs >= 1 and shown == 0
    assert "completed" in run_query(Workspace.open(workspace), "select state from runs").column(0).to_pylist()
    known = {r.name for r in client.read_flow_runs(limit=200)}
    assert not known & {f"pipeline in {root}" for root in (workspace, original / "workspace")}


def test_the_forms_do_what_the_commands_do(client: Any, workspace: Path, workspaces: Path) -> None:
    from flows.deploy.forms import ConceptForm, EvaluateForm, Machine
    from flows.deploy.scheduled import add, evaluate

    mine = shutil.copytree(workspace, workspaces / "forms")
    machine = Machine(workspace=str(mine), threads=1)
    first = add(ConceptForm(name="grain", domain="style"), machine)
    assert [e["concept"] for e in first["evaluations"]] == ["grain"] and (
        mine / "removals" / "grain.saeuron.safetensors"
    ).is_file()
    again = evaluate(EvaluateForm(concepts=["grain"]), machine)
    assert again["evaluations"] == first["evaluations"] and again["counts"]["made"] == 0
    with pytest.raises(Exception, match="unknown concept 'grian': did you mean 'grain'"):
        evaluate(EvaluateForm(concepts=["grian"]), machine)


def test_old_runs_leave_the_database(client: Any, server: Path) -> None:
    from prefect import flow
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Completed

    @flow
    def short() -> None:
        """Nothing."""

    old, new = (client.create_flow_run(short, state=Completed()).id for _ in range(2))
    then = (datetime.now(UTC) - timedelta(days=91)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with contextlib.closing(sqlite3.connect(server / "prefect.db", timeout=30)) as database, database:
        aged = database.execute("update flow_run set end_time = ? where id = ?", (then, str(old)))
        assert aged.rowcount == 1

    def gone() -> bool:
        try:
            client.read_flow_run(old)
        except ObjectNotFound:
            return True
        return False

    until(gone, 30)
    assert client.read_flow_run(new).state.name == "Completed"


def test_a_server_that_is_not_there_is_one_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:SENTINEL5@127.0.0.1:9/api")
    for args in (["run", TINY, "-w", tmp_path / "new"], ["deploy", "--apply"]):
        start = datetime.now(UTC)
        done = run_here(*args)
        assert done.code == 2
        assert "no Prefect server answers at http://127.0.0.1:9/api (PREFECT_API_URL)" in done.complaint
        assert "SENTINEL5" not in done.err
        assert datetime.now(UTC) - start < timedelta(seconds=8)
    monkeypatch.delenv("PREFECT_API_URL")
    done = run_here("deploy", "--apply")
    assert done.code == 2 and "PREFECT_API_URL is not set" in done.complaint


def test_a_killed_run_is_run_again_and_goes_on(client: Any, killed: Any, changed: Path, worker: Path) -> None:
    assert killed.state.name == "Completed", (killed.state.message, worker.read_text()[-3000:])
    seen = states(client, killed.id)
    told = [name for name in seen if name in ("Running", "Crashed", "Interrupted", "AwaitingRetry", "Completed")]
    # An automation whose answer is late asks again: the state is noted twice, and the run is run once.
    order = [name for name, _ in groupby(told)]
    assert order == ["Running", "Crashed", "Interrupted", "AwaitingRetry", "Running", "Completed"]
    found = run_query(Workspace.open(changed), "select state from runs order by number").column(0).to_pylist()
    assert found[-2:] == ["interrupted", "completed"]


def test_of_the_crash_somebody_was_notified(killed: Any, listener: Listener) -> None:
    (told,) = [body for path, body in listener.bodies if path == PATH and body["flow_run_id"] == str(killed.id)]
    assert told["state"] == "Crashed" and told["flow"] == "scheduled"


def test_a_run_that_is_not_heard_of_has_crashed(client: Any, told: dict[str, UUID]) -> None:
    seen = until(lambda: (found := states(client, told["lost"])) and "Interrupted" in found and found)
    assert seen[-3:] == ["Running", "Crashed", "Interrupted"] or "AwaitingRetry" in seen
    (crash,) = [s for s in client.read_flow_run_states(told["lost"]) if s.name == "Crashed"]
    assert crash.message.startswith("Nothing was heard")


def test_a_third_attempt_is_the_last_and_one_that_never_ran_is_left(
    client: Any, told: dict[str, UUID], killed: Any
) -> None:
    # They crashed long before the run that was killed, and of that the automations took notice.
    for name in ("third attempt", "never ran"):
        assert states(client, told[name])[-1] == "Crashed", name


def test_the_page_shows_bars_figures_and_pictures(client: Any, killed: Any, changed: Path) -> None:
    shown = artifacts(client, killed.id)
    assert shown["progress-train"].type == "progress" and float(shown["progress-train"].data) == 100
    for concept in ("stripes", "cat"):
        rows = json.loads(shown[f"figures-{concept}-saeuron"].data)
        assert [row["metric"] for row in rows][:3] == ["UA", "IRA", "CRA"]
        # A drop is negative where the edited model does better than the unedited one.
        assert all(re.fullmatch(r"-|-?\d+\.\d", row["value"]) for row in rows)
        assert shown[f"sheet-{concept}-saeuron"].type == "image"
        assert shown[f"sheet-{concept}-saeuron"].data.startswith("data:image/jpeg;base64,")
        target = changed / "pictures" / f"{concept}.saeuron_scores.png"
        assert target.is_file() and target.as_uri() in shown[f"scores-{concept}-saeuron"].data


def test_events_tell_of_shards_and_artifacts(client: Any, killed: Any, changed: Path) -> None:
    there = {m.id for m in Workspace.open(changed).artifacts()}

    def told(name: str) -> list[Any]:
        return [e for e in events(client, name) if e["payload"]["workspace"] == str(changed)]

    made = [e["resource"]["prefect.resource.id"].split(".")[2] for e in told("saeuron.artifact.written")]
    assert {i.split("_")[0] for i in made} >= {"sae", "removal", "evaluation"} and set(made) <= there
    shards = told("saeuron.shard.written")
    written = [e["resource"]["prefect.resource.id"].split(".")[2:] for e in shards]
    assert written and all(artifact in there and index.isdigit() for artifact, index in written)
    roles = {r["prefect.resource.role"] for r in shards[0]["related"]}
    assert {"artifact", "flow-run"} <= roles


def test_the_log_holds_the_librarys_own_lines(client: Any, killed: Any) -> None:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    logs = client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[killed.id])))
    lines = {(log.name, log.message) for log in logs}
    assert ("tasks.engine.model", "loading canvas20 on cpu") in lines
    assert any(name == "tasks.engine.page" and message.startswith("sae ") for name, message in lines)


def test_no_secret_is_stored(killed: Any, server: Path, changed: Path, by_hand: Path) -> None:
    hidden = [value.encode() for value in (*SECRETS.values(), PATH)]
    files = [p for folder in (server, changed, by_hand) for p in folder.rglob("*") if p.is_file()]
    assert any(p.name == "prefect.db" for p in files)
    for path in files:
        data = path.read_bytes()
        assert not [word for word in hidden if word in data], path
