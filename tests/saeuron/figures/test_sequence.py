"""Figures of several removals at once, beside loops in the plainest form."""

import numpy as np
import pytest

from saeuron.figures.metrics import Judged, wilson
from saeuron.figures.sequence import shares

DOMAINS = ("style", "object")
STYLES, OBJECTS = ("neon", "dots", "sepia", "grain"), ("cat", "star", "moon")


def images(seed=0, right=0.7, seeds=3):
    chance, found = np.random.default_rng(seed), []
    cells = [{"style": s, "object": o} for s in STYLES for o in OBJECTS] + [{"object": o} for o in OBJECTS]
    for asked in cells:
        for index in range(seeds):
            seen = {d: asked.get(d, "nothing") if chance.random() < right else "other" for d in DOMAINS}
            found.append(Judged(" ".join(asked.values()), index, asked, seen))
    return found


def mean(values):
    return float(np.mean([float(v) for v in values]))


def slow(removed, over, found):
    """{(role, measured): accuracy}, by loops."""
    rest = [j for j in found if not any(c in removed for c in j.asked.values())]
    of = {("removed", c): mean(j.seen[d] == c for j in found if j.asked.get(d) == c) for c, d in removed.items()}
    result = dict(of) | {("removed", None): mean(of.values())}
    inside, across = [], []
    for domain, names in (("style", STYLES), ("object", OBJECTS)):
        kept = {}
        for name in names:
            mine = [j for j in rest if j.asked.get(domain) == name]
            if mine:
                kept[name] = mean(j.seen[domain] == name for j in mine)
        result |= {("retained", name): value for name, value in kept.items()}
        if domain in over:
            inside.append(mean(kept.values()))
            other = "object" if domain == "style" else "style"
            across.append(mean(j.seen[other] == j.asked[other] for j in rest if len(j.asked) == 2))
    result |= {("IRA", None): mean(inside), ("CRA", None): mean(across)}
    return result | {("RA", None): (mean(inside) + mean(across)) / 2}


@pytest.mark.parametrize(
    ("removed", "over"),
    [
        ({"neon": "style"}, {"style"}),
        ({"neon": "style", "sepia": "style", "grain": "style"}, {"style"}),
        ({"neon": "style", "cat": "object"}, {"style", "object"}),
        ({"neon": "style"}, {"style", "object"}),
    ],
)
def test_every_figure_is_that_of_the_loops(removed, over):
    found = shares(DOMAINS, removed, over, images())
    expected = slow(removed, over, images())
    assert {(s.role, s.measured) for s in found} == expected.keys() and len(found) == len(expected)
    for share in found:
        assert share.accuracy == pytest.approx(expected[share.role, share.measured], abs=1e-12)
        assert 0 <= share.low <= share.accuracy <= share.high <= 1 and share.low < share.high


def test_numbers_of_images_are_of_different_ones():
    found = {(s.role, s.measured): s.n for s in shares(DOMAINS, {"neon": "style", "cat": "object"}, DOMAINS, images())}
    # Of 4 x 3 cells and 3 without a style, neon has 3, cat 4 and 1; one cell is of both; 8 are of neither.
    assert found["removed", "neon"] == 9 and found["removed", "cat"] == 15 and found["removed", None] == 21
    assert found["CRA", None] == 18 and found["RA", None] == found["IRA", None] == 24
    assert found["retained", "dots"] == 6 and ("retained", "neon") not in found and ("removed", "dots") not in found


def test_intervals_do_not_shrink_to_nothing_and_follow_prompts():
    sure = {(s.role, s.measured): s for s in shares(DOMAINS, {"neon": "style"}, {"style"}, images(right=2.0))}
    assert all(s.accuracy == 1 and (s.low, s.high) == wilson(s.n, s.n) for s in sure.values())
    # Whole prompts right or wrong: images of a prompt say no more than one does.
    alike = [
        Judged(j.prompt_id, j.index, j.asked, {d: j.asked.get(d) if len(j.prompt_id) % 2 else "other" for d in DOMAINS})
        for j in images(seeds=20)
    ]
    [share] = [s for s in shares(DOMAINS, {"neon": "style"}, {"style"}, alike) if s.role == "CRA"]
    low, high = wilson(round(share.accuracy * share.n), share.n)
    assert share.low < low and share.high > high


def test_what_was_not_judged_has_no_figure():
    blind = [Judged(j.prompt_id, j.index, j.asked, {**j.seen, "object": None}) for j in images()]
    found = {(s.role, s.measured): s for s in shares(DOMAINS, {"neon": "style"}, {"style"}, blind)}
    assert found["removed", "neon"].accuracy is not None and found["IRA", None].accuracy is not None
    for key in (("CRA", None), ("RA", None), ("retained", "cat")):
        assert (found[key].accuracy, found[key].low, found[key].high) == (None, None, None)
    nobody = shares(DOMAINS, {"neon": "style"}, {"style"}, [j for j in images() if j.asked.get("style") != "neon"])
    assert next(s for s in nobody if s.measured == "neon").accuracy is None


def test_one_domain_alone_has_no_cross_domain():
    alone = [Judged(j.prompt_id, j.index, {"object": j.asked["object"]}, j.seen) for j in images()]
    found = {(s.role, s.measured): s for s in shares(("object",), {"cat": "object"}, {"object"}, alone)}
    assert ("CRA", None) not in found and found["RA", None].accuracy == found["IRA", None].accuracy


def test_many_concepts_of_one_prompt_each_have_intervals():
    names = [f"c{i}" for i in range(60)]
    found = [Judged(f"A {c}.", 0, {"style": c}, {"style": c if i % 4 else "other"}) for i, c in enumerate(names)]
    removed = dict.fromkeys(names[:40], "style")
    [gone] = [s for s in shares(("style",), removed, {"style"}, found) if (s.role, s.measured) == ("removed", None)]
    assert gone.accuracy == 0.75 and 0.55 < gone.low < 0.65 and 0.85 < gone.high < 0.95
