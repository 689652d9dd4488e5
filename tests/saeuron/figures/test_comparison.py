import numpy as np
import pytest

from saeuron.figures.comparison import Pair, compare, compare_all, share
from saeuron.figures.metrics import Judged, evaluate, summary, wilson

DOMAINS = ("style", "object")


def image(prompt, index, asked_style, seen_style, asked_object, seen_object):
    asked = {k: v for k, v in (("style", asked_style), ("object", asked_object)) if v is not None}
    return Judged(prompt, index, asked, {"style": seen_style, "object": seen_object})


def seen_by(generator, right, wrong):
    """Judged images of 3 styles x 4 objects, 2 prompts each and 2 images of a prompt, right with a probability."""
    styles, objects = ("neon", "dots", "grain"), ("cat", "moon", "star", "key")
    return [
        image(
            f"{style} {thing} {p}", index,
            style, style if generator.random() < (wrong if style == "neon" else right) else "other",
            thing, thing if generator.random() < right else "other",
        )
        for style in styles for thing in objects for p in range(2) for index in range(2)
    ]  # fmt: skip


def slow_summary(concept, seen):
    """(UA + IRA + CRA) / 3 of `seen`, [(judged, how often it counts)], by the plain definitions."""

    def share(rows):
        return sum(times * hit for times, hit in rows) / sum(times for times, _ in rows)

    ua = share([(n, j.seen["style"] != concept) for j, n in seen if j.asked["style"] == concept])
    others = sorted({j.asked["style"] for j, _ in seen} - {concept})
    kept = [share([(n, j.seen["style"] == other) for j, n in seen if j.asked["style"] == other]) for other in others]
    cra = share([(n, j.seen["object"] == j.asked["object"]) for j, n in seen])
    return (ua + sum(kept) / len(kept) + cra) / 3


def slow_difference(pairs, times=None):
    """The mean over concepts of the summaries' difference, each prompt repeated as often as it was drawn."""
    total = 0.0
    for pair in pairs:
        first, second = (
            slow_summary(pair.concept, [(j, 1 if times is None else times.get(j.prompt_id, 0)) for j in seen])
            for seen in (pair.first, pair.second)
        )
        total += first - second
    return total / len(pairs)


def test_a_comparison_is_the_difference_of_the_summaries():
    generator = np.random.default_rng(1)
    pairs = [Pair(c, seen_by(generator, 0.9, 0.2), seen_by(generator, 0.7, 0.4)) for c in ("neon", "dots")]
    found = compare("style", DOMAINS, pairs, draws=300)
    assert found.value == pytest.approx(slow_difference(pairs), abs=1e-12)
    mine = summary(evaluate("style", "neon", DOMAINS, pairs[0].first, pairs[0].first))
    assert mine == pytest.approx(slow_summary("neon", [(j, 1) for j in pairs[0].first]), abs=1e-12)
    assert (found.n_images, found.n_prompts) == (96, 24)
    # The same draws, by the plain definition.
    names, drawn = sorted({j.prompt_id for j in pairs[0].first}), np.random.default_rng(0)
    counts = drawn.multinomial(24, np.full(24, 1 / 24), size=300)
    slow = [slow_difference(pairs, dict(zip(names, map(int, row), strict=True))) for row in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])), abs=1e-12)
    assert found.low < found.value < found.high and found.beats == (found.low > 0)
    assert found.n_differ > 6


def test_domains_count_alike_however_many_concepts_they_have():
    generator = np.random.default_rng(2)

    def pair(concept):
        return Pair(concept, seen_by(generator, 0.9, 0.2), seen_by(generator, 0.7, 0.4))

    styles, objects = [pair("neon"), pair("dots"), pair("grain")], [pair("cat")]
    both = [*(("style", p) for p in styles), *(("object", p) for p in objects)]
    wanted = (compare("style", DOMAINS, styles).value + compare("object", DOMAINS, objects).value) / 2
    assert compare_all(DOMAINS, both).value == pytest.approx(wanted, abs=1e-12)
    assert compare_all(DOMAINS, both[::-1]).value == pytest.approx(wanted, abs=1e-12)


def test_a_removal_does_not_beat_itself_and_beats_one_that_does_nothing():
    generator = np.random.default_rng(2)
    good, idle = seen_by(generator, 1.0, 0.0), seen_by(generator, 1.0, 1.0)
    same = compare("style", DOMAINS, [Pair("neon", good, good)])
    assert (same.value, same.low, same.high, same.beats) == (0, 0, 0, False)
    better = compare("style", DOMAINS, [Pair("neon", good, idle)])
    assert (better.value, better.beats) == (pytest.approx(1 / 3), True)
    worse = compare("style", DOMAINS, [Pair("neon", idle, good)])
    assert (worse.value, worse.beats) == (pytest.approx(-1 / 3), False) and worse.high < 0


def test_an_interval_of_paired_images_is_narrower_than_of_two_apart():
    """Removals that fail on the same images differ in none of them."""
    generator = np.random.default_rng(3)
    first, other = seen_by(generator, 0.6, 0.3), seen_by(generator, 0.6, 0.3)
    changed = [*first]
    changed[0] = image(changed[0].prompt_id, 0, "neon", "other", "cat", "other")
    paired, apart = (compare("style", DOMAINS, [Pair("neon", first, b)]) for b in (changed, other))
    assert 0 < paired.high - paired.low < (apart.high - apart.low) / 4


def test_what_cannot_be_compared():
    good = seen_by(np.random.default_rng(4), 1.0, 0.0)
    unjudged = [Judged(j.prompt_id, j.index, j.asked, {**j.seen, "object": None}) for j in good]
    found = compare("style", DOMAINS, [Pair("neon", good, good), Pair("neon", good, unjudged)])
    assert (found.value, found.low, found.high, found.beats, found.n_images) == (None, None, None, False, 96)
    with pytest.raises(ValueError, match="not judged on the same prompts"):
        compare("style", DOMAINS, [Pair("neon", good, good[1:])])
    with pytest.raises(ValueError, match="at least one concept"):
        compare("style", DOMAINS, [])


@pytest.mark.parametrize(("differ", "beats"), [(5, False), (6, True)])
def test_few_prompts_beat_nothing(differ, beats):
    """However many agree with each other, fewer than six prompts on one side may be chance."""
    good = seen_by(np.random.default_rng(5), 1.0, 0.0)
    prompts = sorted({j.prompt_id for j in good if j.asked["style"] == "neon"})[:differ]
    worse = [
        Judged(j.prompt_id, j.index, j.asked, {**j.seen, "style": "neon"}) if j.prompt_id in prompts else j
        for j in good
    ]
    found = compare("style", DOMAINS, [Pair("neon", good, worse)])
    assert found.low > 0 and (found.n_differ, found.beats) == (differ, beats)


def alone(concepts, seen):
    """One test image for each concept of a single domain; the judge sees those in `seen`."""
    return [Judged(f"A {c}.", 0, {"style": c}, {"style": c if c in seen else "other"}) for c in concepts]


def pairs_of(n, won):
    """Removals of n concepts; the first takes `won` of them away, the second the three after those."""
    concepts = [f"c{i:02d}" for i in range(n)]
    found = []
    for i, concept in enumerate(concepts):
        first, second = ({concept} if i >= won else set()), ({concept} if not won <= i < won + 3 else set())
        others = {*concepts} - {concept}
        found.append(Pair(concept, alone(concepts, others | first), alone(concepts, others | second)))
    return found


@pytest.mark.parametrize("n", [7, 10, 14, 30])
def test_concepts_of_a_single_prompt_are_resampled_too(n):
    """Four concepts against three is chance, however few draws hold a prompt of every concept."""
    found = compare("style", ("style",), pairs_of(n, 4))
    assert found.value == pytest.approx((4 - 3) / n / 2) and found.n_differ == 7
    assert found.low < 0 < found.high and not found.beats
    # The bootstrap is that of a mean over n independent concepts.
    each = np.array([1.0] * 4 + [-1.0] * 3 + [0.0] * (n - 7)) / 2
    error = 1.96 * each.std() / np.sqrt(n)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.2)


def test_too_few_prompts_of_one_metric_have_no_interval():
    good = seen_by(np.random.default_rng(6), 1.0, 0.0)
    kept = [j for j in good if j.asked["style"] != "neon" or (j.asked["object"] == "cat")]
    idle = [Judged(j.prompt_id, j.index, j.asked, dict(j.asked)) for j in kept]
    found = compare("style", DOMAINS, [Pair("neon", kept, idle)])
    assert found.value == pytest.approx(1 / 3) and (found.low, found.high, found.beats) == (None, None, False)
    # A share has Wilson's interval of its images then: 4 of 4.
    ua = share(DOMAINS, [("style", Pair("neon", kept, None))], "UA")
    assert (ua.value, (ua.low, ua.high)) == (1, wilson(4, 4))
