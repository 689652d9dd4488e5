"""The same run by workers of each kind, one of which is killed while it trains: the same artifacts, byte for byte."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.process import LARGE, TINY, Done, ids, payload, run_here

pytestmark = [
    pytest.mark.full,  # `make faults`
    pytest.mark.timeout(1500),
    # Of the libraries' own making.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
DEVICES = ("cpu:0", "cpu:1")
"""Two devices for workers to claim, which every machine has."""


WHOLE = "dask-whole"
"""To a removal and its figures; the others make what comes before."""


def runner(name: str) -> tuple[str, ...]:
    told = f"runner={{kind: {name.split('-')[0]}, workers: 2, threads: 1, devices: [{', '.join(DEVICES)}]}}"
    return "--set", told, *LARGE, "--set", f"tune.concepts=[{'stripes' if name == WHOLE else ''}]"


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Where this machine's claims are noted, here apart from those of other runs. Ray wants a short path."""
    folder, before = Path(tempfile.mkdtemp(prefix="w")), os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    yield folder
    os.environ.pop("TMPDIR")
    if before is not None:
        os.environ["TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


def holder(lock: Path) -> int | None:
    """The process that holds a lock, as the kernel knows it."""
    inode = lock.stat().st_ino if lock.exists() else None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and int(words[5].rsplit(":", 1)[1]) == inode:
            return int(words[4])
    return None


class Killer(threading.Thread):
    """Waits for a checkpoint of an SAE, and kills the process that trains it."""

    def __init__(self, workspace: Path, temporary: Path) -> None:
        super().__init__(daemon=True)
        self.workspace, self.temporary = workspace, temporary
        self.killed: int | None = None
        self.claimed: set[int | None] = set()
        self.over = threading.Event()
        self.again: int | None = None

    def run(self) -> None:
        while not self.over.wait(0.002):
            for checkpoint in self.workspace.glob("artifacts/sae/*/.checkpoint.safetensors"):
                pid = holder(self.workspace / "locks" / f"{checkpoint.parent.name}.lock")
                if pid and self.killed is None:
                    self.claimed = self.holders()
                    os.kill(pid, signal.SIGKILL)
                    self.killed = pid
                elif pid and pid != self.killed:
                    self.again = pid

    def holders(self) -> set[int | None]:
        [folder] = self.temporary.glob("saeuron-devices-*")
        return {holder(folder / f"{name.replace(':', '-')}.lock") for name in DEVICES}


@pytest.fixture(scope="module", params=["dask", "ray", WHOLE])
def disturbed(
    request: pytest.FixtureRequest, server: None, workspaces: Path, temporary: Path
) -> Iterator[tuple[Done, Killer]]:
    """A run one of whose two workers is killed."""
    folder = workspaces / request.param
    killer = Killer(folder, temporary)
    killer.start()
    done = run_here("run", TINY, "-w", folder, *runner(request.param))
    killer.over.set()
    killer.join()
    yield done, killer
    shutil.rmtree(folder)


def test_a_killed_worker_loses_nothing(disturbed: tuple[Done, Killer], workspace: Path) -> None:
    done, killer = disturbed
    assert done.code == 0, done.err
    assert killer.killed is not None
    made, every = ids(killer.workspace), ids(workspace)
    stages = {name.split("_")[0] for name in made}
    if killer.workspace.name == WHOLE:
        assert made < every and stages == {name.split("_")[0] for name in every}
        published = "removals/stripes.saeuron.safetensors", "pictures/stripes.saeuron_sheet.png"
        assert all((killer.workspace / name).read_bytes() == (workspace / name).read_bytes() for name in published)
    else:
        assert made < every and stages == {"prompts", "capture", "sae", "score", "totals"}
    mine = payload(killer.workspace)
    other = {name: data for name, data in payload(workspace).items() if name.split("/")[2] in made}
    whole = [name for name in mine | other if not name.endswith(".tmp")]
    assert [name for name in whole if mine.get(name) != other.get(name)] == []


def test_each_worker_has_a_device_of_its_own(disturbed: tuple[Done, Killer]) -> None:
    _, killer = disturbed
    assert None not in killer.claimed and len(killer.claimed) == 2
    assert killer.killed in killer.claimed
    # Nothing is held once the workers have ended.
    assert killer.holders() == {None}
    assert os.getpid() not in killer.claimed
