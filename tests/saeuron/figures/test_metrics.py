import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeuron.figures.metrics import Judged, Metric, bootstrap_by_prompt, evaluate, paired_loss, summary, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Published values: Newcombe 1998 (81/263, 15/148, 0/20, 1/29) and the usual textbook ones.
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_gives_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_solves_its_equation_and_mirrors(trials, data):
    successes = data.draw(st.integers(0, trials))
    p, (low, high) = successes / trials, wilson(successes, trials)
    assert 0 <= low <= p <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            # The bounds are where a test of the proportion is just significant at 5 %.
            assert abs(p - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / trials), abs=1e-6)
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


def test_wilson_needs_a_trial():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


def test_images_of_one_prompt_do_not_narrow_the_interval():
    generator = np.random.default_rng(0)
    of_prompt = generator.integers(0, 2, 40).astype(float)
    clustered = np.repeat(of_prompt, 25)
    wide = bootstrap_by_prompt(clustered, [f"p{i // 25}" for i in range(1000)])
    narrow = bootstrap_by_prompt(clustered, [f"p{i}" for i in range(1000)])
    mean, error = of_prompt.mean(), of_prompt.std() / math.sqrt(40)
    assert wide == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.02)
    assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(5, rel=0.15)
    assert bootstrap_by_prompt(np.ones(4), list("aabb")) == (1.0, 1.0)
    assert bootstrap_by_prompt(clustered, [f"p{i // 25}" for i in range(1000)]) == wide


def test_the_interval_of_a_paired_loss_is_that_of_bonett_and_price():
    # Airway hyper-responsiveness of 21 children (Fagerland, Lydersen and Laake 2014): 7 gain, 1 loses.
    right = [(True, True)] + [(True, False)] + 7 * [(False, True)] + 12 * [(False, False)]
    value, low, high = paired_loss(right, [f"p{i}" for i in range(21)])
    assert value == pytest.approx(-6 / 21)
    assert (low, high) == pytest.approx((-0.508, -0.013), abs=0.02)
    # Nothing is certain of one image; of twelve, five lost ones are.
    assert paired_loss([(True, False)], ["p"])[1] < 0
    lows = [paired_loss(k * [(True, False)] + (12 - k) * [(True, True)], list(map(str, range(12))))[1] for k in (4, 5)]
    assert lows[0] < 0 < lows[1]


def test_the_interval_of_a_paired_loss_covers_the_truth_of_few_images_and_of_few_prompts():
    generator = np.random.default_rng(1)
    for prompts, images in ((12, 1), (30, 3)):
        # Before, all are right; each prompt has a rate of its own (Beta with a mean of 1/3), its images are alike.
        covered = 0
        for _ in range(200):
            rates = generator.beta(1, 2, prompts).repeat(images)
            right = [(True, bool(kept)) for kept in generator.random(len(rates)) > rates]
            _, low, high = paired_loss(right, [f"p{i // images}" for i in range(len(rates))])
            covered += low <= 1 / 3 <= high
        assert covered / 200 > 0.92, (prompts, images)


def image(prompt, index, asked_style, seen_style, asked_object, seen_object):
    asked = {k: v for k, v in (("style", asked_style), ("object", asked_object)) if v is not None}
    return Judged(prompt, index, asked, {"style": seen_style, "object": seen_object})


# Remove the style neon. Seen (style, object) of every image, edited and unedited.
REQUESTS = [
    # prompt, index, asked style, asked object, edited sees, unedited sees
    ("p1", 0, "neon", "cat", ("plain", "cat"), ("neon", "cat")),
    ("p1", 1, "neon", "cat", ("neon", "cat"), ("neon", "cat")),
    ("p2", 0, "neon", "dog", ("sepia", "cat"), ("neon", "dog")),
    ("p2", 1, "neon", "dog", ("plain", "dog"), ("plain", "dog")),
    ("p3", 0, "sepia", "cat", ("sepia", "cat"), ("sepia", "cat")),
    ("p3", 1, "sepia", "cat", ("sepia", "dog"), ("sepia", "cat")),
    ("p4", 0, "sepia", "dog", ("sepia", "dog"), ("sepia", "dog")),
    ("p5", 0, "dots", "dog", ("plain", "dog"), ("dots", "cat")),
    ("p6", 0, None, "cat", ("plain", "dog"), ("plain", "cat")),
]
EDITED = [image(p, i, s, e[0], o, e[1]) for p, i, s, o, e, _ in REQUESTS]
UNEDITED = [image(p, i, s, u[0], o, u[1]) for p, i, s, o, _, u in REQUESTS]


def by_name(metrics) -> dict[str, Metric]:
    found = {m.metric: m for m in metrics}
    assert len(found) == len(metrics)
    return found


def test_figures_by_hand():
    found = by_name(evaluate("style", "neon", ["style", "object"], EDITED, UNEDITED))
    by_hand = {
        # value, unedited, images, prompts
        "UA": (3 / 4, 1 / 4, 4, 2),
        "IRA": ((3 / 3 + 0 / 1) / 2, 1.0, 4, 3),
        "CRA": (6 / 8, 7 / 8, 8, 5),
        "CRA-retained": (3 / 4, 3 / 4, 4, 3),
        "CRA-target": (3 / 4, 4 / 4, 4, 2),
        "IRA-drop": (1 / 4, 0.0, 4, 3),
        "CRA-drop": (1 / 8, 0.0, 8, 5),
    }
    assert found.keys() == by_hand.keys()
    for name, (value, unedited, images, prompts) in by_hand.items():
        metric = found[name]
        assert (metric.value, metric.unedited) == pytest.approx((value, unedited)), name
        assert (metric.n_images, metric.n_prompts) == (images, prompts), name
        assert metric.low <= metric.value <= metric.high, name
        assert metric.unedited_low <= metric.unedited <= metric.unedited_high, name
    assert found["UA"].low <= wilson(3, 4)[0] and found["UA"].high >= wilson(3, 4)[1]
    assert found["UA"].unedited_low <= wilson(1, 4)[0] and found["CRA"].low <= wilson(6, 8)[0]
    assert found["UA"].image_set == "asked to show neon"


def test_the_other_domain_by_hand():
    found = by_name(evaluate("object", "cat", ["style", "object"], EDITED, UNEDITED))
    # cat was asked for in p1 (2), p3 (2) and the unstyled p6.
    assert found["UA"].value == pytest.approx(2 / 5)
    assert found["IRA"].value == pytest.approx(3 / 4)
    assert found["CRA"].value == pytest.approx(4 / 8)
    assert found["CRA"].n_images == 8
    assert found["CRA-target"].value == pytest.approx(3 / 4)
    assert found["CRA-retained"].value == pytest.approx(1 / 4)


def test_ira_is_a_mean_over_concepts_not_over_images():
    edited = [image(f"s{i}", 0, "sepia", "sepia", "cat", "cat") for i in range(9)]
    edited += [image("d", 0, "dots", "plain", "cat", "cat"), image("n", 0, "neon", "plain", "cat", "cat")]
    found = by_name(evaluate("style", "neon", ["style", "object"], edited, edited))
    assert found["IRA"].value == pytest.approx(1 / 2)
    assert found["IRA"].value != pytest.approx(9 / 10)


def test_a_blank_image_is_no_success_of_cra_target():
    blank = [image(j.prompt_id, j.index, j.asked.get("style"), "plain", j.asked["object"], "square") for j in EDITED]
    found = by_name(evaluate("style", "neon", ["style", "object"], blank, UNEDITED))
    assert found["UA"].value == 1
    assert found["CRA-target"].value == found["CRA"].value == found["IRA"].value == 0
    assert found["CRA-target"].unedited == 1
    assert summary(list(found.values())) == pytest.approx(1 / 3)


def test_without_a_judge_figures_are_null_and_never_a_guess():
    def blind(images):
        return [Judged(j.prompt_id, j.index, j.asked, {"style": None, "object": j.seen["object"]}) for j in images]

    found = by_name(evaluate("style", "neon", ["style", "object"], blind(EDITED), blind(UNEDITED)))
    for name in ("UA", "IRA"):
        metric = found[name]
        assert (metric.value, metric.low, metric.high) == (None, None, None)
        assert (metric.unedited, metric.unedited_low, metric.unedited_high) == (None, None, None)
        assert metric.n_images == 4
    assert found["CRA"].value == pytest.approx(6 / 8)
    assert "IRA-drop" not in found or found["IRA-drop"].value is None
    assert summary(list(found.values())) is None


def test_a_set_without_images_is_null():
    found = by_name(evaluate("style", "blueprint", ["style", "object"], EDITED, UNEDITED))
    assert (found["UA"].value, found["UA"].unedited, found["UA"].n_images) == (None, None, 0)
    assert found["CRA-target"].value is None
    assert found["CRA"].value == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    "edited",
    [EDITED[:-1], [*EDITED, EDITED[0]], [*EDITED[:-1], image("p6", 1, None, "plain", "cat", "cat")]],
    ids=["missing", "twice", "another index"],
)
def test_sets_of_other_requests_are_refused(edited):
    for one, two in ((edited, UNEDITED), (EDITED, edited)):
        with pytest.raises(ValueError, match="not of the same prompts"):
            evaluate("style", "neon", ["style", "object"], one, two)


def test_intervals_of_a_mean_over_concepts():
    # 'sepia' has 90 prompts that are all right, 'dots' 10 of which half are.
    edited = [image(f"s{i}", 0, "sepia", "sepia", "cat", "cat") for i in range(90)]
    edited += [image(f"d{i}", 0, "dots", "dots" if i % 2 else "plain", "cat", "cat") for i in range(10)]
    ira = by_name(evaluate("style", "neon", ["style", "object"], edited, edited))["IRA"]
    assert ira.value == pytest.approx(0.75)
    # Half the standard error of a proportion of 10: the other concept has none.
    error = 0.5 * math.sqrt(0.25 / 10)
    assert (ira.low, ira.high) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.04)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans()), min_size=1, max_size=20))
def test_intervals_stay_within_zero_and_one(rows):
    edited = [
        image(f"{asked}{prompt}", i, asked, asked if right else "x", "cat", "cat")
        for i, (prompt, asked, right) in enumerate(rows)
    ]
    for m in evaluate("style", "a", ["style", "object"], edited, edited):
        if m.value is not None and not m.metric.endswith("-drop"):
            assert 0 <= m.low <= m.value <= m.high <= 1


def test_edited_and_unedited_are_paired_whatever_their_order():
    one = evaluate("style", "neon", ["style", "object"], EDITED, UNEDITED)
    assert evaluate("style", "neon", ["style", "object"], EDITED, UNEDITED[::-1]) == one


def metric(name, value):
    return Metric(name, value, None, None, None, None, None, 1, 1, "")


def test_summary_is_the_mean_of_three():
    parts = [metric("UA", 0.9), metric("IRA", 0.6), metric("CRA", 0.3), metric("CRA-target", 0.0)]
    assert summary(parts) == pytest.approx(0.6)
    for i in range(3):
        assert summary([*parts[:i], metric(parts[i].metric, None), *parts[i + 1 :]]) is None
    for i in range(2):
        assert summary([*parts[:i], *parts[i + 1 :]]) is None


def test_a_run_of_one_domain_has_no_cra_and_is_the_mean_of_two():
    assert summary([metric("UA", 0.9), metric("IRA", 0.6)]) == pytest.approx(0.75)


def test_with_several_other_domains_their_cras_count_alike():
    parts = [metric("UA", 0.9), metric("IRA", 0.6), metric("CRA (object)", 0.2), metric("CRA (place)", 0.4)]
    assert summary(parts) == pytest.approx(0.6)
    assert summary([*parts[:2], metric("CRA (object)", None), parts[3]]) is None
    edited = [
        Judged(
            "p", 0, {"style": "neon", "object": "cat", "place": "sea"}, {"style": "x", "object": "cat", "place": "y"}
        )
    ]
    names = by_name(evaluate("style", "neon", ["style", "object", "place"], edited, edited))
    assert names["CRA (object)"].value == 1
    assert names["CRA (place)"].value == 0


def test_more_images_of_the_same_prompts_do_not_make_a_share_surer():
    """Whole prompts are right or wrong: 12 prompts of 5 images are 12 observations, not 60."""
    seen = [
        Judged(f"p{p}", i, {"style": "neon"}, {"style": "dots" if p < 9 else "neon"})
        for p in range(12)
        for i in range(5)
    ]
    others = [Judged("o", 0, {"style": "dots"}, {"style": "dots"})]
    ua = by_name(evaluate("style", "neon", ["style"], [*seen, *others], [*seen, *others]))["UA"]
    assert ua.value == 0.75
    (low, high), (least, most) = wilson(45, 60), bootstrap_by_prompt(
        np.array([float(j.seen["style"] != "neon") for j in seen]), [j.prompt_id for j in seen]
    )  # fmt: skip
    assert (ua.low, ua.high) == (least, most) and least < low - 0.05 and most > high + 0.05
