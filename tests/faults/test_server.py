"""Prefect's server stops for a while, loses its database, or is not there: what was made is in the workspace."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.environment import QUIET
from tests.end_to_end.process import Cli, Done
from tests.faults.conftest import TALLY, Life, Nursery
from tests.faults.outcome import damaged, differing
from tests.faults.packed import MODULE

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Server:
    """Prefect's server as a user starts it, at a port of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "prefect"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.start()

    def start(self) -> None:
        environment = Cli(self.home).environment | QUIET | {"PREFECT_HOME": str(self.folder)}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, env=environment, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
        end = time.monotonic() + 180
        while not self.healthy():
            assert self.process.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.1)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wipe(self) -> None:
        for path in self.folder.glob("*.db*"):
            path.unlink()
        assert not list(self.folder.glob("*.db*"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("own")
    server = Server(home)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def runs_there(own: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("there"), own.url)
    yield nursery
    nursery.close()


def reached(life: Life, root: Path, stage: str) -> None:
    while not list((root / "artifacts" / stage).glob("*")):
        assert life.ended() is None, life.finish().err
        time.sleep(0.01)


def well_said(done: Done) -> bool:
    """Whether it came to its end, or one line says what is wrong and what to do."""
    return done.code == 0 or (done.code == 1 and "Prefect's server" in done.complaint and "again" in done.complaint)


@pytest.mark.parametrize("stage", ["capture", "score", "images"])
@pytest.mark.parametrize("wiped", [False, True])
def test_it_stops_for_a_while(
    own: Server, runs_there: Nursery, undisturbed: Path, tmp_path: Path, stage: str, wiped: bool
) -> None:
    root = tmp_path / "w"
    life = runs_there.run({}, root)
    reached(life, root, stage)
    own.stop()
    TALLY.faults["server stopped, database wiped" if wiped else "server stopped"] += 1
    if wiped:
        own.wipe()
    time.sleep(3)
    own.start()
    done = life.finish()
    assert well_said(done), done.err + done.out
    assert damaged(root) == []
    again = runs_there.run({}, root).finish()
    assert again.code == 0, again.err
    assert differing(root, undisturbed) == [] and damaged(root) == []


def test_it_is_wiped_between_runs(own: Server, runs_there: Nursery, copy: Path, undisturbed: Path) -> None:
    own.stop()
    own.wipe()
    own.start()
    TALLY.faults["database wiped between runs"] += 1
    done = runs_there.run({}, copy).finish()
    assert done.code == 0 and "0 made" in done.out, done.err
    assert differing(copy, undisturbed) == []


def test_it_is_not_there(own: Server, runs_there: Nursery, tmp_path: Path, undisturbed: Path) -> None:
    own.stop()
    TALLY.faults["no server"] += 1
    done = runs_there.run({}, tmp_path / "w").finish()
    own.start()
    # Found before anything is loaded: the user named a server that is not there.
    assert done.code == 2 and f"no Prefect server answers at {own.url}" in done.complaint, done.err
    assert not (tmp_path / "w" / "artifacts").exists()
    assert runs_there.run({}, tmp_path / "w").finish().code == 0
    assert differing(tmp_path / "w", undisturbed) == []


@pytest.mark.parametrize("limit", [300_000, 2_000_000])
def test_one_of_a_runs_own_has_no_room(tmp_path: Path, undisturbed: Path, limit: int) -> None:
    """Too little for an empty database, and for one with a run in it."""
    cli, root = Cli(tmp_path, MODULE), tmp_path / "w"
    done = cli.run(root, file_limit=limit)
    TALLY.faults["own server without room"] += 1
    assert done.code == 1 and f"no room to write {root}/.prefect/prefect.db" in done.complaint, done.err
    assert not done.left
    done = cli.run(root)
    assert done.code == 0, done.err
    assert differing(root, undisturbed) == [] and damaged(root) == []


def test_the_database_of_a_runs_own_is_damaged(copy: Path, tmp_path: Path, undisturbed: Path) -> None:
    cli, home = Cli(tmp_path, MODULE), copy / ".prefect"

    def run() -> Done:
        # A run that has nothing to make starts no server.
        shutil.rmtree(copy / "artifacts" / "pictures", ignore_errors=True)
        return cli.run(copy)

    assert run().code == 0
    whole = (home / "prefect.db").read_bytes()
    # In the header of its first page, and without its last one, which SQLite may never look at. Pages that were written
    # last lie in another file, and count for more.
    for data in (whole[:5] + bytes([whole[5] ^ 1]) + whole[6:], whole[:-4096]):
        for beside in home.glob("prefect.db-*"):
            beside.unlink()
        (home / "prefect.db").write_bytes(data)
        TALLY.faults["own server's database damaged"] += 1
        done = run()
        if data[5] != whole[5] or done.code:
            assert done.code == 1 and f"delete {home}," in done.complaint, done.err
        shutil.rmtree(home)
        home.mkdir()
    assert run().code == 0
    assert differing(copy, undisturbed) == []
