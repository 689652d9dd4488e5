"""The real command line on s3://: killed while it uploads, from another machine, and with an object damaged."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flows.upkeep import gc
from storage import Workspace
from storage.remote.artifacts import PENDING, prefix
from storage.remote.store import Store
from storage.verify import damage
from tests.end_to_end.process import LARGE, TINY, Cli, Done, payload, run_here
from tests.s3_server import Server

# Its first test waits for three runs, one of them cut short.
pytestmark = pytest.mark.timeout(1200)
URL = "s3://tests/end to end"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, s3: Server) -> Iterator[Path]:
    """A folder with one cache a machine; this process may use the server."""
    before = dict(os.environ)
    os.environ.update(s3.environment)
    yield tmp_path_factory.mktemp("caches")
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def first_machine(caches: Path, s3: Server) -> Cli:
    cli = Cli(caches)
    cli.environment |= {**s3.environment, "SAEURON_CACHE": str(caches / "first")}
    return cli


@pytest.fixture(scope="module")
def killed(first_machine: Cli, caches: Path, s3: Server) -> Done:
    """Ended by force while the shards are on their way: the server stands still from then on until it is dead."""

    def uploading() -> bool:
        if any(caches.glob(f"first/*/artifacts/capture/*/{PENDING}")):
            s3.pause()
            return True
        return False

    try:
        return first_machine.until(uploading, signal.SIGKILL, URL, *LARGE)  # type: ignore[arg-type]
    finally:
        s3.resume()


@pytest.fixture(scope="module")
def shards(killed: Done, caches: Path) -> dict[Path, int]:
    """{shard: when it was written} of the machine on which the run was killed."""
    assert killed.code == -signal.SIGKILL
    cut = {path.parent.name for path in caches.glob(f"first/*/artifacts/*/*/{PENDING}")}
    assert len(cut) == 1 and not {f"manifests/{i}.json" for i in cut} & Store(URL).listing().keys()
    return {path: path.stat().st_mtime_ns for path in caches.glob("first/*/artifacts/capture/*/*/*.tar")}


@pytest.fixture(scope="module")
def finished(server: None, shards: dict[Path, int], caches: Path) -> Done:
    """The next run on the same machine."""
    os.environ["SAEURON_CACHE"] = str(caches / "first")
    return run_here("run", TINY, "-w", URL, "--threads", "1", *LARGE)


def fetched(cache: Path) -> Path:
    """The folder of a machine, with all files of all artifacts."""
    os.environ["SAEURON_CACHE"] = str(cache)
    workspace = Workspace.open(URL)
    for manifest in workspace.artifacts():
        workspace.fetch(manifest.id)
    return workspace.root


def test_the_next_run_goes_on_and_ends_with_the_bytes_of_a_local_run(
    finished: Done, shards: dict[Path, int], workspace: Path, caches: Path
) -> None:
    assert finished.code == 0, finished.err
    # What was finished was uploaded, not made again.
    assert shards and all(path.stat().st_mtime_ns == written for path, written in shards.items())
    other = fetched(caches / "second")
    mine, local = payload(other), payload(workspace)
    assert [name for name in mine | local if mine.get(name) != local.get(name)] == []
    for name in (
        "removals/stripes.saeuron.safetensors",
        "pictures/cat.saeuron_sheet.png",
        "pictures/cat.saeuron_scores.png",
    ):
        assert (other / name).read_bytes() == (workspace / name).read_bytes()


def test_another_machine_finds_everything_in_place(server: None, finished: Done, workspace: Path, caches: Path) -> None:
    os.environ["SAEURON_CACHE"] = str(caches / "third")
    done = run_here("run", TINY, "-w", URL, "--threads", "1", *LARGE, "--json")
    assert done.code == 0, done.err
    counts = json.loads(done.out)["counts"]
    assert (
        counts["made"] == 0 and counts["failed"] == 0 and counts["cached"] == len(list(Workspace.open(URL).artifacts()))
    )
    assert not list(caches.glob("third/**/*.tar")), "nothing is fetched that nobody reads"
    query = "select concept, metric, value from metrics order by all"
    asked = run_here("sql", query, "-w", URL, "--format", "csv")
    assert asked.code == 0 and asked.out == run_here("sql", query, "-w", workspace, "--format", "csv").out
    states = run_here("sql", "select state from runs order by started", "-w", URL, "--format", "csv")
    assert states.out.split() == ["state", "running", "completed", "completed"]
    shown = run_here("concept", "list", "-w", URL)
    assert shown.code == 0 and "stripes" in shown.out


def test_damage_is_found_and_mended(finished: Done, caches: Path) -> None:
    os.environ["SAEURON_CACHE"] = str(caches / "first")
    here = Workspace.open(URL)
    store, [sae, *_] = Store(URL), here.artifacts("sae")
    weights = f"{prefix(sae)}/sae.safetensors"
    before, _ = store.read(weights) or (b"", "")
    store.write(weights, bytes([before[0] ^ 1]) + before[1:])
    # A machine that has not got the file has nothing to mend it with.
    os.environ["SAEURON_CACHE"] = str(caches / "fourth")
    found = run_here("verify", "-w", URL, "--deep")
    assert found.code == 1 and "sae.safetensors" in found.out and "saeuron run" in found.out
    assert f"next: saeuron verify --deep --repair -w '{URL}'" in found.out
    # The one that made it has.
    os.environ["SAEURON_CACHE"] = str(caches / "first")
    mended = run_here("verify", "-w", URL, "--deep", "--repair")
    assert mended.code == 1 and "--repair uploads it" in mended.out, mended.out + mended.err
    assert store.read(weights) == (before, (store.read(weights) or (b"", ""))[1])
    well = run_here("verify", "-w", URL, "--deep")
    assert well.code == 0 and "damaged: none" in well.out, well.out
    # A run that begins on another machine after the survey may refer to anything.
    with pytest.MonkeyPatch.context() as patch, ExitStack() as elsewhere:
        survey, lease = gc.survey, here.backend.lease("20260101T000000-abcdef")

        def surveyed(workspace: Workspace) -> list[gc.Garbage]:
            found = survey(workspace)
            elsewhere.enter_context(lease)
            return found

        patch.setattr(gc, "survey", surveyed)
        kept = gc.collect(Workspace.open(URL))
        assert kept and {each.left for each in kept} == {"a run has begun on another machine"}
    dropped = run_here("gc", "-w", URL, "--json")
    assert dropped.code == 0, dropped.err
    assert {g["kind"] for g in json.loads(dropped.out)} == {"damaged", "lock"}
    assert not store.listing("damaged") and damage(here, sae.id, deep=True) == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://nobody/x", "there is no bucket nobody"),
        ("gs://bucket/x", "there is no support for gs:; expected a folder, or s3://BUCKET/PREFIX"),
        ("s3://tests/empty", "s3://tests/empty is not a workspace: there is no workspace.json"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(caches: Path, place: str, said: str) -> None:
    os.environ["SAEURON_CACHE"] = str(caches / "none")
    done = run_here("status", "-w", place)
    assert done.code == 2 and said in done.complaint
