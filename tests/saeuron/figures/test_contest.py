"""Methods side by side: their figures are those of each alone, and differences are those of the paired comparison."""

import numpy as np
import pytest

from saeuron.figures.comparison import Pair, compare_all, share
from saeuron.figures.contest import contest
from saeuron.figures.metrics import Judged, evaluate, summary, wilson
from saeuron.figures.row import Removed

STYLES, OBJECTS = ("neon", "dots", "sepia"), ("cat", "star", "moon")


def seen(concept, right, seed):
    """Three images of each cell, each judged right with some probability; the concept is gone with `right`."""
    chance = np.random.default_rng(seed)
    found = []
    for style in STYLES:
        for thing in OBJECTS:
            for index in range(3):
                gone = style == concept
                hit = chance.random() < (1 - right if gone else right)
                shown = {"style": style if hit else "grain", "object": thing if chance.random() < right else "sun"}
                found.append(Judged(f"{style} {thing}", index, {"style": style, "object": thing}, shown))
    return found


@pytest.fixture(scope="module")
def removed():
    plain = seen("none", 1.0, 0)
    of = {"strong": 0.97, "weak": 0.55, "control": 0.99}
    return {m: [Removed("style", c, seen(c, p, i), plain) for i, c in enumerate(STYLES[:2])] for m, p in of.items()}


def test_figures_are_means_over_concepts(removed):
    found = contest(("style", "object"), removed, controls={"control"})
    assert found.against == "strong" and {e.method for e in found.entries} == {*removed}
    values = [e.figures["mean"].value for e in found.entries]
    assert values == sorted(values, reverse=True)
    for entry in found.entries:
        alone = [evaluate("style", r.concept, ("style", "object"), r.edited, r.unedited) for r in removed[entry.method]]
        assert entry.figures["mean"].value == pytest.approx(np.mean([summary(a) for a in alone]))
        for name in ("UA", "IRA", "CRA", "CRA-target"):
            mine = entry.figures[name]
            assert mine.value == pytest.approx(np.mean([m.value for a in alone for m in a if m.metric == name]))
            assert mine.low <= mine.value <= mine.high
    assert found.unedited["UA"].value == 0 and found.unedited["IRA"].value == 1


def test_cra_target_is_the_share_of_right_objects_where_the_concept_was_asked(removed):
    found = {e.method: e for e in contest(("style", "object"), removed).entries}
    for name, of in removed.items():
        shares = []
        for r in of:
            mine = [j for j in r.edited if j.asked["style"] == r.concept]
            shares.append(sum(j.seen["object"] == j.asked["object"] for j in mine) / len(mine))
        assert found[name].figures["CRA-target"].value == pytest.approx(np.mean(shares))
    assert len({e.figures["CRA-target"].value for e in found.values()}) > 1


def test_a_run_with_one_domain_has_no_cra():
    plain = [Judged(s, i, {"style": s}, {"style": s}) for s in STYLES for i in range(2)]
    entry = contest(("style",), {"uce": [Removed("style", "neon", plain, plain)]}).entries[0]
    assert entry.figures["CRA"].value is None and entry.figures["CRA-target"].value is None
    assert entry.figures["IRA"].value == 1


def test_differences_are_paired_and_better_is_said_beyond_chance_alone(removed):
    found = {e.method: e for e in contest(("style", "object"), removed, controls={"control"}).entries}
    assert found["strong"].difference is None
    both = zip(removed["weak"], removed["strong"], strict=True)
    pairs = [("style", Pair(w.concept, w.edited, s.edited)) for w, s in both]
    assert found["weak"].difference == compare_all(("style", "object"), pairs)
    assert found["weak"].difference.high < 0 and not found["weak"].difference.beats
    other = {e.method: e for e in contest(("style", "object"), removed, against="weak").entries}
    assert other["strong"].difference.beats and other["weak"].difference is None


def test_an_interval_stays_where_every_image_is_right(removed):
    mine = [("style", Pair("neon", removed["strong"][0].unedited, None))]
    assert share(("style", "object"), mine, "CRA").low == wilson(27, 27)[0] < 1
    assert compare_all(("style", "object"), mine, metrics=("CRA",)).low == 1


def test_what_images_become(removed):
    [first, *_] = contest(("style", "object"), removed, against="strong").entries
    edited = [j for j in removed[first.method][0].edited if j.asked["style"] == "neon"]
    shares = {name: sum(j.seen["style"] == name for j in edited) / len(edited) for name in ("grain", "neon")}
    assert dict(first.becomes["neon"]) == {name: part for name, part in shares.items() if part}
