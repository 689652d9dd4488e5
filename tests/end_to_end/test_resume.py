"""Runs that are cut short, and workspaces that lost something: the next run goes on, and ends with the same bytes."""

import signal
from pathlib import Path

import pytest

from storage import Workspace
from storage.catalog.query import run_query
from tests.end_to_end.process import LARGE, TINY, Cli, Done, ids, payload, run_here
from tests.end_to_end.sharing import migrated

pytestmark = pytest.mark.timeout(600)
LIMIT = 9_000_000
"""Bytes. Prefect's database stays under it with 4 MB or so, the checkpoint of the widest LARGE SAE has 15 MB."""


def states(workspace: Path) -> list[str]:
    return run_query(Workspace.open(workspace), "select state from runs order by number").column(0).to_pylist()


@pytest.fixture(scope="module")
def broken(request: pytest.FixtureRequest, workspaces: Path) -> Path:
    """A new workspace; but for the database of its server, which takes longer to make than the run lives."""
    root = Workspace.open(workspaces / "broken").root
    migrated(request.config, root / ".prefect")
    return root


@pytest.fixture(scope="module")
def killed(cli: Cli, broken: Path, workspace: Path) -> Done:
    """Ended by force once the first shard is there."""
    shard = "artifacts/capture/*/*/00000.tar.json"
    done = cli.until(lambda: any(broken.glob(shard)), signal.SIGKILL, broken, *LARGE)
    # Whether it died in the middle of a file is chance: here it always did.
    folder = next(broken.glob(shard)).parent
    (folder / f".00009.tar.{done.pid}.{done.pid}.tmp").write_bytes(bytes(1000))
    return done


@pytest.fixture(scope="module")
def full(cli: Cli, broken: Path, killed: Done) -> Done:
    """The next run finds a disk with no room for the SAE's checkpoint."""
    return cli.run(broken, *LARGE, file_limit=LIMIT)


@pytest.fixture(scope="module")
def interrupted(cli: Cli, broken: Path, full: Done) -> Done:
    """The next one is interrupted while the SAE trains."""
    checkpoint = "artifacts/sae/*/.checkpoint.safetensors"
    return cli.until(lambda: any(broken.glob(checkpoint)), signal.SIGINT, broken, *LARGE)


@pytest.fixture(scope="module")
def undisturbed(cli: Cli, broken: Path, interrupted: Done) -> Done:
    """The last one is left alone."""
    return cli.run(broken, *LARGE)


def test_killed(killed: Done, full: Done, broken: Path) -> None:
    assert killed.code == -signal.SIGKILL
    # A dead process cannot stop its server: that sees by itself that nobody is there.
    assert states(broken)[0] == "interrupted"
    assert not killed.left, "a server of Prefect's outlived the run"


def test_a_full_disk_is_one_line_and_exit_code_1(full: Done, broken: Path) -> None:
    assert full.code == 1, full.err
    assert "no room to write" in full.complaint and "free some space and run again" in full.complaint
    assert states(broken)[1] == "failed"
    assert not [p for p in broken.rglob("*.tmp") if ".prefect" not in p.parts]


def test_an_interrupt_is_one_line_and_exit_code_130(interrupted: Done, broken: Path) -> None:
    assert interrupted.code == 130, interrupted.err
    assert "interrupted; what was finished is kept" in interrupted.complaint
    assert states(broken)[2] == "interrupted"
    assert not interrupted.left, "a server of Prefect's outlived the run"


def test_the_last_run_goes_on_and_ends_with_the_same_bytes(undisturbed: Done, workspace: Path, broken: Path) -> None:
    assert undisturbed.code == 0, undisturbed.err
    assert ids(broken) == ids(workspace)
    mine, other = payload(broken), payload(workspace)
    assert [name for name in mine | other if mine.get(name) != other.get(name)] == []
    for name in (
        "removals/stripes.saeuron.safetensors",
        "pictures/cat.saeuron_sheet.png",
        "pictures/cat.saeuron_scores.png",
    ):
        assert (broken / name).read_bytes() == (workspace / name).read_bytes()
    assert states(broken)[3] == "completed"


def test_what_was_finished_was_not_made_again(undisturbed: Done, full: Done) -> None:
    made = [line.split()[0] for line in undisturbed.err.splitlines()[2:]]
    assert "prompts" not in made and "capture" not in made
    assert "sae" in made


def test_lost_and_damaged_files_are_made_again_with_the_same_bytes(
    server: None, undisturbed: Done, workspace: Path, broken: Path
) -> None:
    artifacts = broken / "artifacts"
    shard = min(artifacts.glob("capture/*/*/00001.tar"))
    with shard.open("r+b") as file:
        file.truncate(10_240)
    (next(iter(sorted(artifacts.glob("score/*/*/statistics.parquet"))))).unlink()
    [unedited] = (m.id for m in Workspace.open(broken).artifacts("images") if not m.inputs["removals"])
    with (artifacts / "images" / unedited / "00000.tar").open("r+b") as file:
        file.truncate(10_240)
    next(iter(sorted(artifacts.glob("removal/*/manifest.json")))).write_text("{")
    # And one removal cannot be put in its place: the others must not mind.
    (broken / "removals" / "stripes.saeuron.safetensors").unlink()
    (broken / "removals" / "stripes.saeuron.safetensors").mkdir()
    done = run_here("run", TINY, "-w", broken, "--threads", "1", *LARGE)
    assert done.code == 1, done.err
    assert "FAILED  tune stripes by saeuron: [Errno 21] Is a directory" in done.out
    assert "1 failed" in done.out and "next: fix the cause" in done.out
    assert [line.split()[:2] for line in done.out.splitlines()[2:3]] == [["object", "cat"]]
    last = run_query(Workspace.open(broken), "select state, failed, message from runs order by number").to_pylist()[-1]
    assert last["state"] == "failed" and last["failed"] == 1 and last["message"].startswith("tune stripes by saeuron: ")
    mine, other = payload(broken), payload(workspace)
    assert [name for name in mine | other if mine.get(name) != other.get(name)] == []
    # In this process Prefect may log as well, depending on which test imported it first: only our own lines count.
    ours = {"FAILED", *(p.name for p in artifacts.iterdir()), "evaluation", "pictures"}
    made = [words[0] for words in map(str.split, done.err.splitlines()) if words and words[0] in ours]
    # Whole again with their shards, the other two need no new manifest.
    assert sorted(made) == ["FAILED", "removal", "score"]
