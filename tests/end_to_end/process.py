"""The command line as tests call it: in a process of its own, or in this one where no run is made."""

import contextlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows import server
from flows.cli import main
from flows.environment import QUIET
from storage import Workspace
from storage.catalog.query import run_query
from tests.end_to_end.sharing import migrated

# Before Prefect is imported: the tests' server sends no telemetry either.
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

TINY = Path(__file__).parent / "tiny.yaml"
LARGE = ("--set", "train.expansion=24", "--set", "train.checkpoint_every=10")
"""An SAE, that of the widest hookpoint, is larger than all that Prefect writes: a limit on file sizes hits it first."""


@dataclass
class Done:
    code: int
    out: str
    err: str
    pid: int = 0
    left: bool = False
    """Whether a process of its session outlived it."""

    @property
    def complaint(self) -> str:
        """The one line that says what is wrong."""
        assert "Traceback" not in self.err + self.out, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("saeuron: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]), self.err
        return lines[0]


class Cli:
    """`saeuron` as a user calls it: nothing of this process's Prefect settings reaches it."""

    def __init__(self, folder: Path, module: str = "flows.cli") -> None:
        self.folder, self.module = folder, module
        mine = ("PREFECT_", "SAEURON_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(mine)} | {
            "HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }

    def start(self, *args: str | Path, file_limit: int | None = None) -> subprocess.Popen[str]:
        def limit() -> None:
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        return subprocess.Popen(
            [sys.executable, "-m", self.module, *map(str, args)],
            cwd=TINY.parents[2],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit,
        )

    def finish(self, process: subprocess.Popen[str]) -> Done:
        try:
            out, err = process.communicate(timeout=400)
        finally:
            left = end_session(process.pid)
        return Done(process.returncode, out, err, process.pid, left)

    def __call__(self, *args: str | Path, file_limit: int | None = None) -> Done:
        return self.finish(self.start(*args, file_limit=file_limit))

    def run(self, workspace: Path, *args: str | Path, **how: int) -> Done:
        return self("run", TINY, "-w", workspace, "--threads", "1", *args, **how)

    def until(self, seen: Callable[[], bool], number: int, workspace: Path, *args: str | Path) -> Done:
        """Start a run, and send a signal as soon as something is there."""
        process = self.start("run", TINY, "-w", workspace, "--threads", "1", *args)
        end = time.monotonic() + 300
        while not seen():
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"it was never there:\n{self.finish(process).err}")
            time.sleep(0.01)
        if number == signal.SIGKILL:
            process.send_signal(number)
        else:  # as a terminal does, and a service manager: to all that the process has started
            os.killpg(process.pid, number)
        return self.finish(process)


def end_session(session: int) -> bool:
    """End what is left of a process's session, such as the server of one that was killed; whether there was any."""
    end = time.monotonic() + 5
    while (left := _living(session)) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return bool(left)


def _living(session: int) -> list[int]:
    """The processes of a session that run; one that ended and that nobody has asked for its exit code does not."""
    command = ["ps", "-A", "-o", "sid=,pid=,stat="]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = (line.split() for line in listed.splitlines())
    return [int(pid) for sid, pid, stat in found if int(sid) == session and not stat.startswith("Z")]


def run_here(*args: str | Path) -> Done:
    """`saeuron` in this process: quick, because what it imports is there already."""
    environment, words = dict(os.environ), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["saeuron", *map(str, args)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.argv = words
        os.environ.clear()
        os.environ.update(environment)
    return Done(code, out.getvalue(), err.getvalue())


SERVER = ("prefect", "server", "start")
RETENTION = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
}
"""What README sets for the server: no telemetry, old runs deleted."""
"""As README starts it."""
_SERVER = pytest.StashKey[Path]()


def start_server(config: pytest.Config) -> Path:
    """A Prefect server: one for the session, for it takes seconds to start. Returns its folder."""
    if _SERVER not in config.stash:
        stack = contextlib.ExitStack()
        config.add_cleanup(stack.close)
        config.stash[_SERVER] = stack.enter_context(serving(config))
    return config.stash[_SERVER]


@contextlib.contextmanager
def serving(config: pytest.Config, **settings: str) -> Iterator[Path]:
    """A Prefect server for the block, schedules and automations included; its folder."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # Prefect keeps what sends logs and events, with the address it was made for.
    _drain()
    own = server.start
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        url = stack.enter_context(_started(migrated(config, home), settings))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        stack.callback(_drain)
        # A run in this process would start one of its own, in case, that would be there until this process ends.
        stack.callback(setattr, server, "start", own)
        server.start = lambda: None if PREFECT_API_URL.value() else own()
        yield home


@contextlib.contextmanager
def _started(home: Path, settings: dict[str, str]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | QUIET | RETENTION | settings
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *SERVER, "--host", "127.0.0.1", "--port", str(port)],
            env=environment | {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "PREFECT_HOME": str(home)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/api"
        until(lambda: _answers(f"{url}/health") or process.poll() is not None, 240)
        assert process.poll() is None, (home / "server.log").read_text()
        yield url
    finally:
        # Asked politely it waits for whoever still listens to it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _drain() -> None:
    """Send what is still to be sent before the server goes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)


def until(seen: Callable[[], Any], seconds: float = 60, pause: float = 0.1) -> Any:
    """Wait for something to be there, and return it."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "it never came"
        time.sleep(pause)
    return found


def payload(workspace: Path) -> dict[str, bytes]:
    """Every file that artifacts are made of, but for the times in the manifests."""
    artifacts = workspace / "artifacts"
    found = {p.relative_to(workspace).as_posix(): p for p in artifacts.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in sorted(found.items()) if p.name != "manifest.json"}


def ids(workspace: Path) -> set[str]:
    """The artifacts that are committed."""
    return {p.parent.name for p in (workspace / "artifacts").glob("*/*/manifest.json")}


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    """What SQL answers about a workspace."""
    return run_query(Workspace.open(folder, create=False), query).to_pylist()
