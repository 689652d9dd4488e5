"""The report as HTML: whole in itself, well-formed, and with its figures to be read back."""

from dataclasses import replace

import pytest

from saeuron.figures.damage import Confusion, Damage
from saeuron.figures.metrics import Metric
from saeuron.figures.quality import Quality
from saeuron.pages import dots
from saeuron.pages.removals import AtHookpoint, Attack, Candidate, Comparison, Pair, RemovalRecord, Rival, UsedLatent
from saeuron.pages.report import Report, figures_of, page
from tests.saeuron.pages.test_pages import latent, parsed

PNG = "data:image/png;base64,AAAA"
PAIR = Pair("neon cat", PNG, PNG, [("neon", True)], [("dots", False), ("cat", True)])
METRICS = [
    Metric("UA", 1.0, 0.9, 1.0, 0.0, 0.0, 0.1, 30, 15, "asked to show neon"),
    Metric("IRA", None, None, None, None, None, None, 0, 0, "asked to show another style"),
    Metric("CRA", 0.95, 0.9, 0.98, 0.97, 0.9, 1.0, 60, 30, "both"),
]
RECORD = RemovalRecord(
    domain="style",
    concept="neon <1>",
    method="saeuron",
    settings="n 1",
    verdict="weak",
    reason="cat lost 30 points",
    value=None,
    images=60,
    seeds=2,
    removal_id="removal_v7_aa",
    evaluation_id="evaluation_v4_bb",
    bands=[("asked for neon", [PAIR]), ("none", [])],
    metrics=METRICS,
    damage=[Damage("cat", "object", 1.0, 0.7, 0.3, 0.1, 0.5, True, 20, 10)],
    confusion=[Confusion("style", "neon <1>", "dots", 12, 0)],
    quality=[Quality("CLIP score", "x", 24.5, 25.0, None, 40, "others")],
    attacks=[Attack("gradient, hidden", 1.0, 4, 0, 1, 1.0)],
    rivals=[Rival("untrained", "failed", 0.5, {"UA": {"value": 0.2, "low": 0.1, "high": 0.4}})],
    candidates=[Candidate("n 1", True, 0.9, 1.0, 0.8, None), Candidate("n 2", False, 0.8, 1.0, 0.6, None)],
    places=[AtHookpoint("unet.a", "sae_v2_cc", [9, 0], [UsedLatent(3, [0.1, 0.3], 2, (-1.0, 0.0))], 4, [latent(3)])],
)  # fmt: skip
REPORT = Report(
    title="Run 1",
    model="canvas",
    model_id="m",
    facts={"run": "1"},
    removals=[RECORD],
    comparisons=[Comparison("style", "saeuron", "untrained", ["neon"], 0.1, -0.01, 0.2, False, 60)],
    config="model: {}\n",
    commands=["saeuron run run.yaml"],
    hard=True,
    figures={"evaluation_v4_bb": {"UA": 1.0, "verdict": "</script><b>"}},
)


@pytest.fixture(scope="module")
def html() -> str:
    return page(REPORT)


def test_nothing_is_loaded_and_no_script_runs(html: str) -> None:
    found = parsed(html)
    assert [link for link in found.links if not link.startswith(("data:", "#"))] == []
    assert "url(http" not in html and "@import" not in html
    assert found.seen.count("script") == 1 and 'type="application/json"' in html
    assert "neon <1>" not in html and "neon &lt;1&gt;" in html


def test_pictures_come_before_figures_and_each_has_its_verdict(html: str) -> None:
    assert html.index("asked for neon") < html.index("What was removed") < html.index("What it cost others")
    assert '<span class="bad">dots</span> <span>cat</span>' in html
    assert "not shown" in html and "untrained" in html and "It harms 1 of 1 other concepts" in html
    assert ">none<" not in html
    # One of four prompts, with Wilson's interval of it.
    assert "<td>25.0</td><td>4.6 to 69.9</td><td>0.0</td><td>100.0</td><td>4</td>" in html
    assert "<td>24.5</td><td>25</td><td>-</td><td>40</td>" in html


def test_its_figures_are_read_back(html: str) -> None:
    assert figures_of(html) == REPORT.figures
    with pytest.raises(ValueError, match="no figures"):
        figures_of("<html></html>")


def test_without_judges_and_latents_it_says_so() -> None:
    bare = replace(RECORD, metrics=[], damage=[], confusion=[], rivals=[], candidates=[], places=[], bands=[])
    text = page(replace(REPORT, removals=[bare], comparisons=[], config="", figures={}))
    parsed(text)
    for said in ("No judge looked", "No settings were tried", "No control was run"):
        assert said in text


def test_a_dot_lies_between_the_ends_of_its_interval() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(dots.intervals([dots.Dot("a<b", 0.5, 0.25, 1.0), dots.Dot("c", -0.5)], "UA"))
    space = "{http://www.w3.org/2000/svg}"
    first, second = root.iter(f"{space}circle")
    bar = next(line for line in root.iter(f"{space}line") if line.get("stroke-width") == "2")
    at, left, right = float(first.get("cx", "")), float(bar.get("x1", "")), float(bar.get("x2", ""))
    # On a scale from -0.5, as far as the second dot, to 1.
    assert (at - left) / (right - left) == pytest.approx(1 / 3, abs=0.01)
    assert float(second.get("cx", "")) == pytest.approx(left - (right - left), abs=0.2)


def test_the_chosen_candidate_is_drawn_last() -> None:
    text = dots.tradeoff([("a", 0.1, 0.9, True), ("b", 0.5, 0.5, False)], "t", "x", "y")
    assert text.index("b: 50.0, 50.0") < text.index("a: 10.0, 90.0, chosen")
