"""`saeuron compare --leave-out` through the real command line: two folds of one style each; and mistakes."""

import json
import shutil
from pathlib import Path

import pytest

from flows.measure.leave_out import folds
from saeuron.pages.pictures import picture_of
from storage import Workspace
from tests.end_to_end.process import Done, payload, rows, run_here

pytestmark = pytest.mark.timeout(600)
WORDS = ("compare", "stripes", "neon", "--leave-out", "1")


@pytest.fixture(scope="module")
def ran(server: Path, workspace: Path, workspaces: Path) -> tuple[Done, Path, dict[str, bytes]]:
    folder = Path(shutil.copytree(workspace, workspaces / "leave_out"))
    before = {p.name: p.read_bytes() for p in (folder / "removals").iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return run_here(*WORDS, "-w", folder), folder, before


def test_the_text_fits_and_has_every_kind(ran: tuple[Done, Path, dict[str, bytes]]) -> None:
    done, folder, _ = ran
    assert done.code == 0, done.err + done.out
    told = [line for line in done.out.splitlines() if not line.startswith(("picture:", "next:"))]
    assert max(map(len, told)) <= 80
    for name in (
        "unedited",
        "in the SAE's training",
        "left out of it",
        "both",
        "untrained SAE *",
        "labels of others *",
    ):
        assert any(line.startswith(name) for line in told), name
    place = next(Path(line.split(" ", 1)[1]) for line in done.out.splitlines() if line.startswith("picture:"))
    assert picture_of(place.read_bytes()).std() > 5 and place.parent == folder / "pictures"


def test_nothing_is_captured_anew_and_nothing_published_changes(ran: tuple[Done, Path, dict[str, bytes]]) -> None:
    _, folder, before = ran
    assert {p.name: p.read_bytes() for p in (folder / "removals").iterdir()} == before
    # Nor does anybody miss the copies of removals that were made to be measured.
    verified = run_here("verify", "--deep", "-w", folder)
    assert verified.code == 0, verified.out
    workspace = Workspace.open(folder, create=False)
    assert len(workspace.artifacts("capture")) == 3
    without = {
        (m.summary["hookpoint"], c): m.inputs["capture"]
        for m in workspace.artifacts("sae")
        for c in m.summary.get("without", ())
    }
    captured = {m.summary["hookpoint"]: m.id for m in workspace.artifacts("capture")}
    assert len(without) == 4 and all(captured[h] == capture for (h, _), capture in without.items())


def test_each_concept_is_once_in_and_once_out(ran: tuple[Done, Path, dict[str, bytes]]) -> None:
    _, folder, _ = ran
    found = rows(folder, "select kind, count(*) as n from left_out where domain is null group by all order by all")
    assert {r["kind"]: r["n"] for r in found} == {
        "in": 4, "out": 4, "all": 4, "untrained": 4, "unedited": 4, "permuted": 1, "out - in": 1, "out - untrained": 1,
    }  # fmt: skip
    # The mean of differences is the difference of means: on the same images.
    [difference] = rows(folder, "select value from left_out where kind = 'out - in' and domain is null")
    means = {r["kind"]: r["value"] for r in rows(folder, "select kind, value from left_out where metric = 'mean'")}
    assert difference["value"] == pytest.approx(float(str(means["out"])) - float(str(means["in"])), abs=1e-9)
    assert means["all"] == pytest.approx((float(str(means["out"])) + float(str(means["in"]))) / 2, abs=1e-9)


def test_again_costs_nothing_and_what_took_long_is_kept(ran: tuple[Done, Path, dict[str, bytes]]) -> None:
    _, folder, _ = ran
    before = payload(folder)
    again = run_here(*WORDS, "-w", folder, "--json")
    assert again.code == 0 and payload(folder) == before
    assert json.loads(again.out)["summary"]["folds"] == [["stripes"], ["neon"]]
    # Evaluations, pictures and totals may go: they are made again without a new image of these removals.
    gone = {line.split()[0] for line in run_here("gc", "--dry-run", "-w", folder).out.splitlines() if line.strip()}
    assert not gone & {"images", "judgements", "trials", "removal", "leave_out", "capture"}, gone
    # An SAE is still found by its hookpoint: that which saw everything.
    hookpoint = "unet.up_blocks.1.attentions.0"
    info = run_here("sae", "info", hookpoint, "-w", folder, "--json")
    assert info.code == 0 and not json.loads(info.out).get("without")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stripes", "neno", "--leave-out", "1"], "unknown concept 'neno': did you mean 'neon'"),
        (["stripes", "neon", "--leave-out", "2"], "--leave-out 2: 2 concepts of style; name more than 2"),
        (["stripes", "cat", "--leave-out", "1"], "--leave-out 1: 1 concept of style; name more than 1"),
        (["stripes", "neon", "--leave-out", "1", "--methods", "uce"], "--leave-out: uce uses no trained SAE"),
    ],
)
def test_mistakes_are_said_at_once(words: list[str], said: str, workspace: Path) -> None:
    done = run_here("compare", *words, "-w", workspace)
    assert done.code == 2 and said in done.complaint


def test_folds_leave_each_concept_out_once() -> None:
    found = folds({"a": "style", "x": "object", "b": "style", "c": "style", "y": "object"}, 2)
    assert found[:2] == [("style", ("a", "b"), ("c",)), ("style", ("c",), ("a", "b"))]
    assert found[2][0] == "object"
