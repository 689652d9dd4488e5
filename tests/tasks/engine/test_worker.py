"""Workers: devices of their own, processes that die, errors that travel."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import dask
import pytest
from distributed import KilledWorker

import saeuron.errors
import storage.errors
from saeuron.errors import BadModel, ConfigError, SaeuronError, UnknownName
from storage import Workspace
from storage.errors import ArtifactDamaged, DiskFull
from storage.files import write_json
from tasks.engine import worker
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step
from tasks.engine.worker import Worker, at_work, claim, portable

for _name in ("saeuron.sae.interchange.folder", "tasks.registry.records"):
    importlib.import_module(_name)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "UnknownName": ("concept", "neom", ["neon", "dots"], "Look again."),
    "NotAWorkspace": ("/here", "it is a file"),
    "OtherFormat": ("/here", 2, 1, ": upgrade"),
    "NotFinite": ("An image of a cat.", "float16"),
    "ArtifactMissing": ("score_v1_0", "a manifest"),
    "ArtifactDamaged": ("/here/a.tar", "10 bytes", "9"),
    "RecordDamaged": ("/here/run.json", "a seal", "none"),
    "NoRoom": ("images", "out of memory"),
    "DiskFull": ("/full", 12),
    "BadStore": ("s3://bucket", "no such bucket", "one that exists"),
    "Conflict": ("s3://bucket", "run.json"),
    "ObjectDamaged": ("a.tar", "10 bytes", "9", "s3://bucket"),
    "StoreAway": ("s3://bucket", "timed out"),
}
"""What those take that take more than a text."""


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from below(each)


KINDS = sorted({*below(saeuron.errors.SaeuronError), *below(storage.errors.StorageError)}, key=str)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.__module__.startswith("tests")])
def test_every_error_survives_a_trip(kind: type[Exception]) -> None:
    error = kind(*ARGUMENTS.get(kind.__name__, ("what, the value, what to do",)))
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is kind and str(back) == str(error) and back.args == error.args
    assert portable(error) is error


class Unsendable(Exception):
    def __init__(self, one: str, two: Callable[[], None]) -> None:
        super().__init__(f"{one} is not well")
        self.two = two


def test_an_error_that_cannot_travel_is_told_by_one_that_can() -> None:
    told = portable(Unsendable("this", lambda: None))
    assert type(told) is SaeuronError and str(told) == "Unsendable: this is not well"


_CLAIM = """
import sys
from tasks.engine.worker import claim
print(claim(("cpu:0", "cpu:1"), "r1"), flush=True)
sys.stdin.read()
"""


class TestClaim:
    @pytest.fixture(autouse=True)
    def _apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(worker, "_claimed", {})
        yield
        # A claim is never given back while its process lives; this one goes on to other tests.
        for path in Path("/proc/self/fd").iterdir():
            if path.is_symlink() and str(path.readlink()).startswith(str(tmp_path)):
                os.close(int(path.name))

    def test_each_process_has_its_own_until_it_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = subprocess.Popen(
            [sys.executable, "-c", _CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == "cpu:0\n"
            both = ("cpu:0", "cpu:1")
            assert claim(both, "r1") == "cpu:1" == claim(both, "r1")
            monkeypatch.setattr(worker, "PATIENCE", 0.0)
            with pytest.raises(SaeuronError, match=r"claimed by another worker of this run \(cpu:0\); lower run"):
                claim(("cpu:0",), "r1")
            other.send_signal(signal.SIGKILL)
        assert claim(("cpu:0",), "r1") == "cpu:0"

    def test_while_another_run_has_it_a_run_waits(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(worker, "PATIENCE", 0.0)
        other = subprocess.Popen(
            [sys.executable, "-c", _CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with other, ThreadPoolExecutor() as executor:
            assert other.stdout is not None
            assert other.stdout.readline() == "cpu:0\n"
            waiting = executor.submit(claim, ("cpu:0",), "r2")
            with pytest.raises(TimeoutError):
                waiting.result(1)
            assert "waiting for a device (cpu:0): run r1 has it" in caplog.text
            other.send_signal(signal.SIGKILL)
            assert waiting.result(10) == "cpu:0"

    def test_a_step_is_told_which(self, workspace: Workspace) -> None:
        write_json(workspace.runs / "r1.json", {})
        told = Worker(run="r1", threads=1, devices=("cuda:3", "cpu:7"))
        # Steps without a model stay on the CPU where the run is on a GPU.
        with at_work(told, workspace.root, "cpu") as device:
            assert device == "cpu:7"
        with at_work(told.model_copy(update={"devices": None}), workspace.root, "cpu") as device:
            assert device == "cpu"
        with at_work(None, Path("/nowhere"), "cuda:1") as device:
            assert device == "cuda:1"


def test_a_workspace_that_the_worker_does_not_see(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"does not see the workspace .*shared folder"),
        at_work(Worker(run="r1", threads=1), tmp_path / "elsewhere", "cpu"),
    ):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


class OddSummary(Summary):
    pid: int
    threads: int
    device: str


class OddJob(Job):
    stage: ClassVar[str] = "odd"
    version: ClassVar[int] = 1

    do: str


@step("odd")
def odd(job: OddJob) -> Made:
    clock = Clock()
    marks = job.workspace / "marks"
    with marks.open("a") as file:
        file.write(f"{job.do} {os.getpid()}\n")
    times = marks.read_text().count(f"{job.do} ")
    if (job.do == "die once" and times == 1) or job.do == "die always":
        os.kill(os.getpid(), signal.SIGKILL)
    errors: dict[str, Exception] = {
        "unknown": UnknownName("concept", "neom", ["neon"], "Look again."),
        "full": DiskFull("/full", 12),
        "damaged": ArtifactDamaged(job.workspace / "x", "10 bytes", "9"),
        "model": BadModel("no such model"),
    }
    if job.do in errors:
        raise errors[job.do]
    import torch

    write_json(job.folder / "pid.json", os.getpid())
    return commit(job, {}, OddSummary(pid=os.getpid(), threads=torch.get_num_threads(), device=job.device), clock)


@pytest.fixture(scope="module")
def outcomes(server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """What came of several steps in one worker; the error, or what was made."""
    from prefect import flow

    from flows.runners import task_runner
    from saeuron.config import RunnerConfig

    workspace = Workspace.open(tmp_path_factory.mktemp("odd") / "w")
    write_json(workspace.runs / "r1.json", {})
    told = Worker(run="r1", threads=3)
    todo = ("unknown", "full", "damaged", "model", "die once", "die always", "well")

    def everything() -> dict[str, Any]:
        found: dict[str, Any] = {}
        # One at a time: Dask counts a worker's death against every task that waits on it.
        for do in todo:
            try:
                found[do] = odd.submit(OddJob(workspace=workspace.root, worker=told, do=do))()
            except Exception as error:
                found[do] = error
        return found

    # Two attempts are enough to see what comes of them. And no time at all for a worker to be started again, unless
    # the runner gives it.
    dask_settings = {"distributed.scheduler.allowed-failures": 1, "distributed.deploy.lost-worker-timeout": "1 ms"}
    with dask.config.set(dask_settings):
        runner = task_runner(RunnerConfig(kind="dask"), 1)
        return workspace, flow(everything, name="odd", task_runner=runner, validate_parameters=False)()


class TestDask:
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize(
        ("do", "kind", "said"),
        [
            ("unknown", UnknownName, "unknown concept 'neom': did you mean 'neon'? Look again."),
            ("full", DiskFull, "no room to write /full: it needs at least 12 bytes"),
            ("damaged", ArtifactDamaged, "expected 10 bytes, found 9"),
            ("model", BadModel, "no such model"),
            ("die always", KilledWorker, "on 2 different workers, but all those workers died"),
        ],
    )
    def test_errors_come_back_as_they_are(
        self, outcomes: tuple[Workspace, dict[str, Any]], do: str, kind: type[Exception], said: str
    ) -> None:
        assert type(outcomes[1][do]) is kind and said in str(outcomes[1][do])

    def test_a_step_whose_process_is_killed_is_done_by_the_next(
        self, outcomes: tuple[Workspace, dict[str, Any]]
    ) -> None:
        workspace, found = outcomes
        tried = [line.rsplit(" ", 1) for line in (workspace.root / "marks").read_text().splitlines()]
        first, second = (int(pid) for do, pid in tried if do == "die once")
        assert first != second == found["die once"].summary["pid"]
        assert len([do for do, _ in tried if do == "die always"]) == 2
        assert found["well"].summary["pid"] not in (os.getpid(), first, second)

    def test_the_worker_is_as_it_was_told(self, outcomes: tuple[Workspace, dict[str, Any]]) -> None:
        made = outcomes[1]["well"]
        assert made.summary["threads"] == 3 and not made.cached
        # Who made it changes no id.
        assert made.id == OddJob(workspace=outcomes[0].root, do="well").id
        assert outcomes[0].has(made.id)

    def test_no_process_stays(self, outcomes: tuple[Workspace, dict[str, Any]]) -> None:
        for line in (outcomes[0].root / "marks").read_text().splitlines():
            assert not Path(f"/proc/{line.rsplit(' ', 1)[1]}").exists()
