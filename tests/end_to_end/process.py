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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.environment import QUIET

# Before Prefect is imported: the tests' server sends no telemetry either.
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

TINY = Path(__file__).parent / "tiny.yaml"
LARGE = ("--set", "train.expansion=96", "--set", "train.checkpoint_every=10")
"""SAEs that are larger than all that Prefect writes, so that a limit on file sizes hits them first."""


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
RETENTION = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
"""As README starts it; the rest only makes it quick."""
_QUICK = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}
_SERVER = pytest.StashKey[Path]()


def start_server(config: pytest.Config) -> Path:
    """A Prefect server, schedules and automations included: one for the session, for it takes seconds to start.

    Returns its folder.
    """
    if _SERVER in config.stash:
        return config.stash[_SERVER]
    from prefect.settings import PREFECT_API_URL, temporary_settings

    stack = contextlib.ExitStack()
    config.add_cleanup(stack.close)
    home = config.stash[_SERVER] = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | QUIET | RETENTION | _QUICK
    log = stack.enter_context((home / "server.log").open("w"))
    process = subprocess.Popen(
        [sys.executable, "-m", *SERVER, "--host", "127.0.0.1", "--port", str(port)],
        env=environment | {"PREFECT_HOME": str(home)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    stack.callback(_stop, process)
    url = f"http://127.0.0.1:{port}/api"
    until(lambda: _answers(f"{url}/health") or process.poll() is not None, 240)
    assert process.poll() is None, (home / "server.log").read_text()
    stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
    stack.callback(_drain)
    return home


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
    process.wait()


def _drain() -> None:
    """Send what is still to be sent before the server goes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)


def until(seen: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something to be there, and return it."""
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
    return found


def payload(workspace: Path) -> dict[str, bytes]:
    """Every file that artifacts are made of, but for the times in the manifests."""
    artifacts = workspace / "artifacts"
    found = {p.relative_to(workspace).as_posix(): p for p in artifacts.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in sorted(found.items()) if p.name != "manifest.json"}


def ids(workspace: Path) -> set[str]:
    """The artifacts that are committed."""
    return {p.parent.name for p in (workspace / "artifacts").glob("*/*/manifest.json")}
