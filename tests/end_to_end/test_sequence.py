"""`saeuron sequence` through the real command line: two concepts, two orders, a control; and mistakes."""

import json
import shutil
from pathlib import Path

import pytest

from flows.measure.sequence import called, numbers, orderings
from saeuron.methods.removal import Removal
from saeuron.pages.pictures import picture_of
from tests.end_to_end.process import Done, payload, rows, run_here

pytestmark = pytest.mark.timeout(600)
WORDS = ("sequence", "stripes", "neon", "--own", "2", "--retained", "4")


@pytest.fixture(scope="module")
def ran(server: Path, workspace: Path, workspaces: Path) -> tuple[Done, Path]:
    folder = Path(shutil.copytree(workspace, workspaces / "sequence"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        return run_here(*WORDS, "-w", folder), folder


def test_the_text_fits_and_says_what_was_found(ran: tuple[Done, Path]) -> None:
    done, folder = ran
    assert done.code == 0, done.err + done.out
    told = [line for line in done.out.splitlines() if not line.startswith(("picture:", "file:", "next:"))]
    assert max(map(len, told)) <= 80
    assert told[0] == "order 0, by saeuron; control: random; unedited: RA without any removal"
    assert any(line.startswith("merged in 2 orders: the same bytes") for line in told)
    assert "one after another too" in " ".join(told) and "UA of stripes is" in done.out
    place = next(Path(line.split(" ", 1)[1]) for line in done.out.splitlines() if line.startswith("picture:"))
    assert place == folder / "pictures" / "sequence_stripes-neon.saeuron.png"
    assert picture_of(place.read_bytes()).std() > 5


def test_the_view_has_every_state_of_every_order(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    states = rows(folder, "select distinct order_seed, m, method, control, removed from sequences order by all")
    orders = {0: ["stripes", "neon"], 1: ["neon", "stripes"]}
    assert states == [
        {"order_seed": seed, "m": m, "method": method, "control": method != "saeuron", "removed": order[:m]}
        for seed, order in orders.items()
        for m in (1, 2)
        for method in ("random", "saeuron", "unedited")
    ]
    # At the end the order is forgotten: the same images.
    last = "select method, role, measured, accuracy, n from sequences where m = 2 and order_seed = {} order by all"
    assert rows(folder, last.format(0)) == rows(folder, last.format(1))
    kept = rows(folder, "select distinct measured from sequences where m = 2 and role = 'retained' order by all")
    # Of four prompts that ask for neither; which objects they name, the seed of the choice says.
    assert "dots" in (names := {r["measured"] for r in kept}) and {"dots"} < names <= {"dots", "cat", "moon", "star"}
    assert rows(folder, "select count(*) as n from sequences where not (low <= accuracy and accuracy <= high)") == [
        {"n": 0}
    ]


def test_the_figures_are_those_of_the_judgements(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    stated = rows(
        folder,
        "select accuracy, n from sequences where m = 2 and order_seed = 0 and role = 'removed' and measured = 'neon' "
        "and method != 'unedited'",
    )
    judged = rows(
        folder,
        "select avg((asked = label)::int) as accuracy, count(*) as n from judgements where domain = 'style' and "
        "asked = 'neon' and image_set_id in (select image_set from images where len(removals) = 2) "
        "group by image_set_id",
    )
    # The method's set and the control's: both orders have the same.
    assert sorted((r["accuracy"], r["n"]) for r in stated) == sorted((r["accuracy"], r["n"]) for r in judged)
    assert len(stated) == len(judged) == 2


def test_the_file_is_the_merged_removal(ran: tuple[Done, Path]) -> None:
    done, folder = ran
    out = folder.parent / "merged.png"
    file = next(Path(line.split(" ", 1)[1]) for line in done.out.splitlines() if line.startswith("file:"))
    merged = Removal.load(file)
    assert merged.concept == "neon + stripes" and len(merged.provenance["merged"]) == 2
    assert not (folder / "removals" / "neon + stripes.saeuron.safetensors").exists()
    drawn = run_here("generate", "A cat.", "--remove", file, "--out", out, "-w", folder)
    assert drawn.code == 0 and out.stat().st_size > 0, drawn.err


def test_again_costs_nothing_and_nothing_is_garbage(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    before = payload(folder)
    again = run_here(*WORDS, "-w", folder, "--json")
    assert again.code == 0 and payload(folder) == before
    assert json.loads(again.out)["summary"]["same_file"] is True
    gone = run_here("gc", "--dry-run", "-w", folder)
    assert "0 would be deleted" in gone.out, gone.out
    assert run_here("verify", "--deep", "-w", folder).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stripes"], "1 concept; expected two or more"),
        (["stripes", "neno"], "unknown concept 'neno': did you mean 'neon'"),
        (["stripes", "neon", "stripes"], "stripes is named twice"),
        (["stripes", "neon", "dots"], "every style would be removed"),
        (["stripes", "neon", "--method", "sauron"], "unknown method 'sauron': did you mean 'saeuron'"),
        (["stripes", "neon", "--control", "saeuron"], "--control saeuron: it is the method itself"),
        (["stripes", "neon", "--orders", "3"], "--orders 3: 2 concepts have 2"),
        (["stripes", "neon", "--at", "3"], "--at 3: expected 1 to 2"),
        (["stripes", "neon", "--set", "domains.style.judge=none"], "domains.style.judge is none"),
    ],
)
def test_mistakes_are_said_at_once(words: list[str], said: str, workspace: Path) -> None:
    done = run_here("sequence", *words, "-w", workspace)
    assert done.code == 2 and said in done.complaint


def test_orders_are_different_and_always_the_same() -> None:
    found = orderings(["a", "b", "c"], 6)
    assert found[0] == ("a", "b", "c") and len({*found}) == 6
    assert orderings(["a", "b", "c"], 3) == found[:3]


def test_many_are_measured_at_some_and_the_picture_has_a_short_name() -> None:
    assert (
        numbers(50, ()) == list(range(1, 51))
        and numbers(50, (25, 10)) == [1, 10, 25, 50]
        and numbers(2, (2,)) == [1, 2]
    )
    fifty = [f"c{i}" for i in range(50)]
    assert called(fifty).startswith("c0-and-49-more-") and len(called(fifty)) < 60
    assert called(fifty) == called(["c0", *reversed(fifty[1:])]) != called(fifty[:49])
    assert called(["a", "b", "c"]) == "a-b-c"
