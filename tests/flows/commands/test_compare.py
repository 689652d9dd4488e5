"""`saeuron compare`: what is said, and mistakes; README's example of it is executed with the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands.measure.compare import alike_line, page, verdict
from saeuron.figures.comparison import Difference
from saeuron.figures.contest import Contest, Entry
from storage.manifests import Manifest
from tasks.compare import Cost, _frechet
from tests.end_to_end.process import run_here

EVEN = Difference(0.9712, 0.93, 1.0, 480, 96, 40)
FIGURES = dict.fromkeys(("UA", "IRA", "CRA", "CRA-target", "mean"), EVEN)


def found() -> Contest:
    worse = Difference(-0.123, -0.151, -0.094, 480, 96, 40)
    unsure = replace(worse, value=-0.001, low=-0.01, high=0.01)
    sees = {"king": [("queen", 0.61), ("rook", 0.2), ("knight", 0.1), ("cow", 0.09)]}
    entries = [("uce", None), ("saeuron", unsure), ("negative_prompt", worse), ("untrained", worse)]
    return Contest("uce", tuple(Entry(m, FIGURES, d, sees) for m, d in entries), FIGURES)


def test_the_page_fits_and_says_what_chance_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    costs = {e.method: Cost(12.3, 0.0, 144, 49000, 1.004, 0.153, 40.8013, 369.92) for e in found().entries}
    costs["untrained"] = Cost(12.3, 0.0, 144, 49000, 1.004)
    text = page(found(), costs, {"untrained"}, "king")
    assert max(map(len, text.splitlines())) <= 80
    assert "left out" not in text and "-12.3 (-15.1 -9.4)" in text and "untrained *" in text
    assert "1.00 x" in text and "15.3" in text and "queen 61 %, rook 20 %, knight 10 %" in text and "cow" not in text
    [pictures] = [part for part in text.split("\n\n") if part.startswith("method") and "CRA-target" in part]
    told = {line.split("  ")[0]: line.split()[-3:] for line in pictures.splitlines()[2:]}
    assert told["saeuron"] == ["15.3", "40.8", "370"] and told["untrained *"] == ["-", "-", "-"] == told["unedited"]
    assert verdict(found(), {"untrained"}) == (
        "uce against the others: worse: negative_prompt; not told apart: saeuron."
    )


def test_of_many_concepts_those_are_listed_that_are_still_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    becomes = {f"c{i}": [("fish", 1.0)] for i in range(30)}
    becomes |= {"king": [("queen", 0.9), ("king", 0.1)], "unjudged": []}
    many = replace(found(), entries=(Entry("uce", FIGURES, None, becomes),))
    said = page(many, {"uce": Cost(1.0, 0.0, 60, 1000, 1.0)}, set(), "a, b, c, d and 28 more").splitlines()
    assert said[-3:] == [
        "  uce: no image shows 30 of 32 concepts any more (--json: what it shows)",
        "  king by uce: queen 90 %, king 10 %",
        "  unjudged by uce: not judged",
    ]


def test_the_pairs_that_were_chosen_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = alike_line([("king", "queen", 0.8123), ("star", "hexagram", 0.7)])
    assert " ".join(said.split()).endswith("king and queen (81 %), star and hexagram (70 %)")
    assert max(map(len, said.splitlines())) <= 80


def test_a_distance_is_the_mean_over_concepts_in_one_extractors_features() -> None:
    def made(concept: str, value: float, control: float | None, extractor: str = "layer") -> Manifest:
        others = {"metric": "Frechet distance", "extractor": extractor, "value": 9.0, "control": 9.0}
        mine = {**others, "value": value, "control": control}
        quality = [
            {**mine, "image_set": f"not asked to show {concept}"},
            {**others, "image_set": "prompts of a file"},
        ]
        return Manifest.model_construct(summary={"concept": concept, "quality": quality})

    both = [made("cat", 1.0, 10.0), made("neon", 4.0, 20.0)]
    assert (_frechet(both, "value"), _frechet(both, "control")) == (2.5, 15.0)
    assert _frechet([both[0], made("neon", 4.0, None)], "control") is None
    assert _frechet([both[0], made("neon", 4.0, 20.0, "another")], "value") is None
    assert _frechet([both[0], Manifest.model_construct(summary={"concept": "neon"})], "value") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "uce,uce"], "--methods names one twice"),
        (["--methods", "uec"], "unknown method 'uec'"),
        (["--against", "steering"], "--against steering: it is not among the methods"),
        (["--out", "a.jpg"], "--out a.jpg: expected a file name that ends in .png"),
        (["neon", "--confusable", "2"], "--confusable 2 chooses the concepts"),
        (["unicorn"], "no concept 'unicorn' in the configuration canvas"),
        (["--set", "evaluate.seedz=1"], "unknown key 'evaluate.seedz'; did you mean 'seed' or 'seeds'"),
    ],
)
def test_mistakes_are_said_at_once(words: list[str], said: str, tmp_path: Path) -> None:
    done = run_here("compare", *words, "-w", tmp_path / "w")
    assert done.code == 2 and said in done.complaint
