"""One row of a table of methods, against the plain definition of its figures."""

from dataclasses import replace

import numpy as np
import pytest

from saeuron.figures.comparison import Pair, compare, share
from saeuron.figures.metrics import Judged, evaluate, summary
from saeuron.figures.row import Removed, row

DOMAINS = ("style", "object")


def seen(seed: int, removed: tuple[str, str], right: float, still: float) -> list[Judged]:
    """Judged images of 3 styles x 3 objects, 2 prompts each; the removed concept is drawn with another probability."""
    chance, found = np.random.default_rng(seed), []
    for style in ("neon", "dots", "grain"):
        for thing in ("cat", "moon", "star"):
            for p in range(2):
                asked = {"style": style, "object": thing}
                shown = {
                    d: c if chance.random() < (still if (d, c) == removed else right) else "other"
                    for d, c in asked.items()
                }
                found.append(Judged(f"{style} {thing} {p}", 0, asked, shown))
    return found


def removals() -> list[Removed]:
    return [
        Removed(d, c, seen(i, (d, c), 0.9, 0.2), seen(9, (d, c), 0.95, 0.95), seen(i + 5, (d, c), 0.7, 0.5))
        for i, (d, c) in enumerate([("style", "neon"), ("object", "cat")])
    ]


def plain_mean(removed: Removed, times: dict[str, int]) -> float:
    """(UA + IRA + CRA) / 3 by its definition, each prompt as often as it was drawn."""
    domain, other = (removed.domain, "object" if removed.domain == "style" else "style")
    images = [j for j in removed.edited for _ in range(times[j.prompt_id])]

    def accuracy(judged: str, images: list[Judged]) -> float:
        return float(np.mean([j.seen[judged] == j.asked[judged] for j in images]))

    of = {c: [j for j in images if j.asked[domain] == c] for c in {j.asked[domain] for j in images}}
    if removed.concept not in of:
        return float("nan")  # such a draw is not counted
    kept = np.mean([accuracy(domain, found) for c, found in of.items() if c != removed.concept])
    return (1 - accuracy(domain, of[removed.concept]) + float(kept) + accuracy(other, images)) / 3


def value(each: Removed, images: list[Judged]) -> float:
    found = summary(evaluate(each.domain, each.concept, DOMAINS, images, images))
    assert found is not None
    return found


def test_figures_are_means_over_removals_of_both_domains() -> None:
    made = removals()
    found = row(DOMAINS, made)
    assert [(m.domain, m.concept) for m in found.removals] == [("style", "neon"), ("object", "cat")]
    for name in ("UA", "IRA", "CRA"):
        values = [
            next(m.value for m in evaluate(r.domain, r.concept, DOMAINS, r.edited, r.unedited) if m.metric == name)
            for r in made
        ]
        assert getattr(found.edited, name) == pytest.approx(np.mean(values))
    assert found.edited.mean == pytest.approx(np.mean([value(r, list(r.edited)) for r in made]))
    assert found.unedited.mean == pytest.approx(np.mean([value(r, list(r.unedited)) for r in made]))
    assert found.images == 36


def test_the_interval_is_a_bootstrap_over_prompts() -> None:
    made = removals()
    found = row(DOMAINS, made)
    names = sorted({j.prompt_id for j in made[0].edited})
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
    slow = [np.mean([plain_mean(r, dict(zip(names, map(int, times), strict=True))) for r in made]) for times in counts]
    assert found.low is not None and found.high is not None and found.edited.mean is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.nanpercentile(slow, [2.5, 97.5])), abs=1e-12)
    assert found.low < found.edited.mean < found.high


def test_the_difference_is_to_the_control_and_needs_one_for_every_removal() -> None:
    made = removals()
    found = row(DOMAINS, made).difference
    assert found is not None and found.value is not None
    expected = [value(r, list(r.edited)) - value(r, list(r.control or ())) for r in made]
    assert found.value == pytest.approx(np.mean(expected))
    assert row(DOMAINS, [made[0], Removed("object", "cat", made[1].edited, made[1].unedited)]).difference is None
    one, two = row(DOMAINS, made[:1]).difference, Pair("neon", made[0].edited, made[0].control)
    assert one == compare("style", DOMAINS, [two])


def test_each_removal_has_its_intervals_and_its_differences_from_both_controls() -> None:
    made = [replace(r, random=seen(i + 20, (r.domain, r.concept), 0.5, 0.9)) for i, r in enumerate(removals())]
    found = row(DOMAINS, made)
    assert found.minus_random is not None and found.difference is not None
    assert found.minus_random.value == pytest.approx(
        np.mean([value(r, list(r.edited)) - value(r, list(r.random or ())) for r in made])
    )
    pairs = [(r.domain, Pair(r.concept, r.edited, None)) for r in made]
    for name in ("UA", "IRA", "CRA"):
        expected = share(DOMAINS, pairs, name)
        assert found.intervals[name] == (expected.low, expected.high)
        for each in (found, *found.removals):
            low, high = each.intervals[name]
            assert low is not None and high is not None and low <= getattr(each.edited, name) <= high
    assert found.intervals["mean"] == (found.low, found.high)
    for mine, r in zip(found.removals, made, strict=True):
        alone = row(DOMAINS, [r])
        assert (mine.intervals, mine.difference, mine.minus_random) == (
            alone.intervals, alone.difference, alone.minus_random,
        )  # fmt: skip
    half = row(DOMAINS, [made[0], replace(made[1], random=None)])
    assert half.minus_random is None and half.difference is not None
    assert [each.minus_random is None for each in half.removals] == [False, True]


def test_the_worst_victim_is_that_of_the_removal_that_harms_most() -> None:
    plain = seen(1, ("style", "neon"), 1.0, 1.0)
    without = [Judged(j.prompt_id, j.index, j.asked, {**j.seen, "style": "other"}) if j.asked["style"] == "dots" else j
               for j in plain]  # fmt: skip
    found = row(DOMAINS, [Removed("object", "cat", plain, plain), Removed("style", "neon", without, plain)])
    assert found.worst is not None and found.worst.concept == "neon" and found.worst.victim is not None
    assert (found.worst.victim.harmed, found.worst.victim.before, found.worst.victim.after) == ("dots", 1.0, 0.0)


def test_what_no_judge_saw_has_no_figure() -> None:
    [one, _] = removals()
    blind = [Judged(j.prompt_id, j.index, j.asked, {"style": j.seen["style"]}) for j in one.edited]
    found = row(DOMAINS, [Removed(one.domain, one.concept, blind, one.unedited)])
    assert (found.edited.CRA, found.edited.mean, found.low, found.high) == (None, None, None, None)
    assert found.edited.UA is not None


def test_odd_images_are_a_mean_over_removals_that_all_have_it() -> None:
    first, second = removals()
    shares = replace(first, odd=(0.9, 0.1)), replace(second, odd=(0.5, 0.3))
    assert row(DOMAINS, shares).odd == pytest.approx((0.7, 0.2))
    assert row(DOMAINS, (shares[0], second)).odd is None
