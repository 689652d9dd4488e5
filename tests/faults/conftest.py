"""One undisturbed run, one Prefect server for all runs, and the figures at the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.environment import QUIET
from tests.end_to_end.process import TINY, Cli, Done, run_here, start_server
from tests.end_to_end.sharing import once
from tests.faults.packed import packed

SEED = int(os.environ.get("SAEURON_FAULTS_SEED", "1"))
"""What all chance is drawn from: a failure names it, and the same seed makes the same faults again."""


@dataclass
class Tally:
    """What was done to the pipeline."""

    kills: Counter[str] = field(default_factory=Counter)
    """By the stage at whose files the process was."""
    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    """Runs that were started."""


TALLY = Tally()
STARTED = time.monotonic()


@pytest.fixture(autouse=True)
def tallied(request: pytest.FixtureRequest) -> Iterator[None]:
    """With its report, what a test did comes to the process that sums up, which may be another."""
    before = deepcopy(TALLY)
    yield
    kills, faults = dict(TALLY.kills - before.kills), dict(TALLY.faults - before.faults)
    request.node.user_properties.append(("tally", [kills, faults, TALLY.runs - before.runs]))


@pytest.fixture(autouse=True)
def with_packs() -> Iterator[None]:
    with packed():
        yield


@dataclass
class Life:
    """A run, from its start to whatever end it comes to."""

    nursery: "Nursery"
    pid: int
    words: list[Future[str]]
    """What it wrote, to stdout and to stderr, once it has ended."""
    code: int | None = None

    def ended(self) -> int | None:
        if self.code is None:
            self.code = self.nursery.say(ask=self.pid)
        return self.code

    def kill(self) -> None:
        # Until it was asked how it ended, its number is nobody else's.
        if self.ended() is None:
            os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> Done:
        if self.code is None:
            self.code = self.nursery.say(wait=self.pid)
        out, err = (words.result(60) for words in self.words)
        return Done(self.code, out, err, self.pid)


class Nursery:
    """Starts runs as copies of a process that has loaded everything (`child.py`): a second each in place of ten."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.readers = ThreadPoolExecutor(thread_name_prefix="reader")
        environment = Cli(folder).environment | QUIET
        environment |= {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder / "prefect")}
        # Read when Prefect is imported, which here is before the command line can set it.
        environment |= {"PREFECT_LOGGING_LEVEL": "CRITICAL"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child"],
            cwd=TINY.parents[2],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, **order: object) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(order)}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, plan: dict[str, Any], *words: str | Path) -> Life:
        TALLY.runs += 1
        pipes = [self.folder / f"{TALLY.runs}.{name}" for name in ("out", "err")]
        for pipe in pipes:
            os.mkfifo(pipe)
        said = [self.readers.submit(pipe.read_text) for pipe in pipes]
        return Life(self, self.say(start=[plan, [*map(str, words)], *map(str, pipes)]), said)

    def run(self, plan: dict[str, Any], root: Path, *words: str) -> Life:
        return self.start(plan, "run", TINY, "-w", root, "--threads", "1", *words)

    def close(self) -> None:
        self.process.communicate(timeout=60)
        self.readers.shutdown()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> str:
    from prefect.settings import PREFECT_API_URL

    start_server(request.config)
    return str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def nursery(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"), server)
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def undisturbed(request: pytest.FixtureRequest, server: str) -> Path:
    """The workspace of a run that nothing befell, one for all processes: leave it as it is."""

    def make(folder: Path) -> None:
        with packed():
            done = again(folder / "w")
        assert done.code == 0, done.err

    return once(request.config, "undisturbed", make) / "w"


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    """As that run left it, to be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "w"))


def again(root: Path, *words: str) -> Done:
    """A run, in this process."""
    return run_here("run", TINY, "-w", root, "--threads", "1", *words)


def stage_of(log: Path) -> str:
    """What the last event was about: a stage, or a folder of the workspace."""
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines:
        return "before any"
    parts = lines[-1].split(" ", 1)[1].split("/")
    if parts[0] == "artifacts" and len(parts) > 1:
        return parts[1]
    if parts[0].endswith(".tmp"):
        return "configuration"
    return parts[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = (report for kind in terminalreporter.stats.values() for report in kind)
    ended = (report for report in reports if getattr(report, "when", "") == "teardown")
    told = [what for report in ended for name, what in report.user_properties if name == "tally"]
    kills, faults = (sum((Counter(each[i]) for each in told), Counter[str]()) for i in (0, 1))
    if not faults:
        return
    minutes = (time.monotonic() - STARTED) / 60
    terminalreporter.section("faults")
    stages = ", ".join(f"{stage} {n}" for stage, n in kills.most_common())
    runs = sum(each[2] for each in told)
    terminalreporter.line(f"{kills.total()} kills, {runs} runs, {minutes:.1f} minutes, seed {SEED}")
    terminalreporter.line(f"killed at: {stages}")
    terminalreporter.line(", ".join(f"{what} {n}" for what, n in sorted(faults.items())))
