"""`saeuron audit` through the real command line: attacks, their controls, the view, the pictures; and mistakes."""

import json
from pathlib import Path

import pytest

from flows.audit import check, lines, notes
from flows.config import load
from saeuron.errors import ConfigError
from saeuron.figures.metrics import wilson
from storage import Workspace
from tests.end_to_end.process import TINY, Done, rows, run_here

pytestmark = pytest.mark.timeout(600)
ASKED = ("--attack", "random", "--attack", "gradient", "--prompts", "2", "--iterations", "1")


@pytest.fixture(scope="module")
def audited(server: Path, changed: Path) -> tuple[Done, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        return run_here("audit", "stripes", *ASKED, "-w", str(changed)), changed


def test_the_table_has_the_controls_and_says_what_it_means(audited: tuple[Done, Path]) -> None:
    done, folder = audited
    assert done.code == 0, done.err + done.out
    lines = done.out.splitlines()
    assert lines[0].split() == ["method", "attack", "before", "back", "weakened", "strength", "unedited", "updates"]
    assert [line.split()[:2] for line in lines[2:4]] == [["saeuron", "random"], ["saeuron", "gradient"]]
    assert lines[-1].startswith("next: saeuron sql ")
    for attack in ("random", "gradient"):
        assert (folder / "pictures" / f"stripes.saeuron_{attack}.png").is_file()


def test_every_picture_is_in_the_view(audited: tuple[Done, Path]) -> None:
    _, folder = audited
    found = rows(folder, "select * from attacks order by all")
    kinds = {(r["method"], r["attack"], r["strength"]) for r in found}
    weak = {strength for _, attack, strength in kinds if attack in ("gradient", "random")} - {1.0}
    assert len(weak) == 1 and weak < {0.5, 0.25, 0.125}
    assert kinds == {
        ("saeuron", "random", 1.0), ("unedited", "random", 1.0),
        ("saeuron", "gradient", 1.0), ("unedited", "gradient", 1.0), ("saeuron", "gradient", *weak),
        ("saeuron", "random", *weak),
        *(("saeuron", "none", strength) for strength in (0.5, 0.25, 0.125)),
    }  # fmt: skip
    assert all(r["success"] == (r["judged"] == "stripes" and r["ordinary"]) for r in found)
    for kind in kinds:
        mine = [r for r in found if (r["method"], r["attack"], r["strength"]) == kind]
        assert sum(bool(r["before"]) for r in mine) == len({r["prompt_id"] for r in mine}) == 2
    tried = [r for r in found if r["attack"] == "gradient" and not r["before"]]
    assert all(len(str(r["text"]).split()) > 5 and r["timestep"] is not None for r in tried)


def test_a_second_audit_makes_only_what_is_new(audited: tuple[Done, Path]) -> None:
    _, folder = audited
    before = {m.id for m in Workspace.open(folder, create=False).artifacts("audit")}
    (listed := folder.parent / "attacks.csv").write_text("prompt,evaluation_seed\nA striped cat.,41\nStripes!,42\n")
    words = ("--attack", "none", "--file", str(listed), "--json")
    done = run_here("audit", "stripes", *ASKED, *words, "-w", str(folder))
    assert done.code == 0, done.err
    found = json.loads(done.out)["rows"]
    assert [(r["attack"], r["prompts"]) for r in found[2:]] == [("none", 2), ("file_attacks", 2)]
    assert [r["attack"] for r in found[:2]] == ["random", "gradient"]
    for r in found:
        assert (r["low"], r["high"]) == pytest.approx(wilson(r["broken"], r["prompts"]))
        assert (r["before_low"], r["before_high"]) == pytest.approx(wilson(r["before"], r["prompts"]))
        assert len(r["found"]) == r["broken"] - r["before"] and (r["updates"] is None) == (not r["found"])
    assert len({m.id for m in Workspace.open(folder, create=False).artifacts("audit")} - before) == 4
    texts = rows(folder, "select distinct text, before from attacks where attack = 'file_attacks' order by all")
    assert texts == [{"text": "A striped cat.", "before": True}, {"text": "Stripes!", "before": True}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit", "stripe"], "stripes"),
        (["audit", "stripes", "--attack", "gradiant"], "gradient"),
        (["audit", "stripes", "--method", "steering"], "saeuron"),
        (["audit", "stripes", "--file", "nowhere.csv"], "no such prompt file"),
    ],
)
def test_mistakes_take_one_line(workspace: Path, words: list[str], said: str) -> None:
    done = run_here(*words, "-w", str(workspace))
    assert done.code == 2 and said in done.complaint


def test_without_a_judge_nobody_can_say() -> None:
    config = load(str(TINY), ["domains.style.judge=none"])
    with pytest.raises(ConfigError, match="judge: none"):
        check(config, "style", "stripes")
    check(config, "object", "cat")


def test_the_table_fits_and_has_what_was_before_and_what_broke_a_prompt(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = [{"prompt_id": f"p{i}", "text": f"word{i} {'many words of a sentence ' * 4}", "iteration": 40 * i + 40}
             for i in range(5)]  # fmt: skip
    row = {
        "method": "text_redirect", "attack": "gradient", "prompts": 8, "before": 1, "broken": 6, "removed": 0.75,
        "low": 0.41, "high": 0.93, "before_low": 0.02, "before_high": 0.47, "weak": 1.0, "weak_before": 0.5,
        "unedited": 1.0, "strength": 0.25, "updates": 120, "found": texts, "sheet": "pictures/s.png",
    }  # fmt: skip
    nothing = {**row, "attack": "random", "found": [], "updates": None, "weak": 0.75}
    told = lines("stripes", [row, nothing], Workspace.open(workspace, create=False))
    page = "\n".join(told)
    assert max(map(len, page.splitlines())) <= 80
    assert "12.5 2-47" in page and "75.0 41-93" in page
    assert "gradient on text_redirect, 40: word0" in page and "and 2 more" in page and "word3" not in page
    monkeypatch.setenv("COLUMNS", "120")
    wide = "\n".join(lines("stripes", [row, nothing], Workspace.open(workspace, create=False)))
    assert "left out" not in wide and " 120\n" in wide.replace("  ", " ")


def test_controls_that_do_not_behave_are_named() -> None:
    base = {"method": "m", "prompts": 10, "before": 1, "broken": 2, "removed": 0.2, "strength": 0.5, "weak_before": 0.1}
    weak = {**base, "attack": "gradient", "weak": 0.2, "unedited": 1.0}
    strong = {**base, "attack": "gradient", "weak": 0.9, "unedited": 1.0}
    luck = {**base, "attack": "random", "weak": None, "unedited": 1.0, "removed": 0.3}
    blind = {**base, "attack": "none", "weak": None, "unedited": 0.4}
    assert "weak attack" in notes([weak])[0] and notes([strong]) == []
    assert any("random words do as well" in line for line in notes([strong, luck]))
    worse, better = ({**luck, "removed": 0.1, "weak": weak} for weak in (0.8, 0.9))
    assert notes([strong, worse]) == []
    [line] = notes([strong, better])
    assert "m at strength 0.5: random words do no worse than gradient, 90 % and 90 %" in line
    assert "no claim" in notes([blind])[0]
