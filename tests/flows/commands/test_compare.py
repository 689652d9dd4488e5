"""`saeuron compare`: what is said, and mistakes; README's example of it is executed with the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands.measure.compare import page, verdict
from saeuron.figures.comparison import Difference
from saeuron.figures.contest import Contest, Entry
from tasks.compare import Cost
from tests.end_to_end.process import run_here

EVEN = Difference(0.9712, 0.93, 1.0, 480, 96, 40)
FIGURES = dict.fromkeys(("UA", "IRA", "CRA", "mean"), EVEN)


def found() -> Contest:
    worse = Difference(-0.123, -0.151, -0.094, 480, 96, 40)
    unsure = replace(worse, value=-0.001, low=-0.01, high=0.01)
    sees = {"king": [("queen", 0.61), ("rook", 0.2), ("knight", 0.1), ("cow", 0.09)]}
    entries = [("uce", None), ("saeuron", unsure), ("negative_prompt", worse), ("untrained", worse)]
    return Contest("uce", tuple(Entry(m, FIGURES, d, sees) for m, d in entries), FIGURES)


def test_the_page_fits_and_says_what_chance_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    costs = {e.method: Cost(12.3, 0.0, 144, 49000, 1.004, 0.153) for e in found().entries}
    text = page(found(), costs, {"untrained"}, "king")
    assert max(map(len, text.splitlines())) <= 80
    assert "left out" not in text and "-12.3 (-15.1 -9.4)" in text and "untrained *" in text
    assert "1.00 x" in text and "15.3" in text and "queen 61 %, rook 20 %, knight 10 %" in text and "cow" not in text
    assert verdict(found(), {"untrained"}) == (
        "uce against the others: worse: negative_prompt; not told apart: saeuron."
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "uce,uce"], "--methods names one twice"),
        (["--methods", "uec"], "unknown method 'uec'"),
        (["--against", "steering"], "--against steering: it is not among the methods"),
        (["--out", "a.jpg"], "--out a.jpg: the picture is a PNG"),
        (["neon", "--confusable", "2"], "--confusable 2 chooses the concepts"),
        (["unicorn"], "no concept 'unicorn' in the configuration canvas"),
        (["--set", "evaluate.seedz=1"], "unknown key 'evaluate.seedz'; did you mean 'seed' or 'seeds'"),
    ],
)
def test_mistakes_are_said_at_once(words: list[str], said: str, tmp_path: Path) -> None:
    done = run_here("compare", *words, "-w", tmp_path / "w")
    assert done.code == 2 and said in done.complaint
