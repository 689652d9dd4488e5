"""Shares, exchanges, false discoveries and lifts, beside slow ways to compute them."""

import itertools
import math

import numpy as np
import pytest

from saeuron.blindspots.prevalence import (
    FLOOR,
    Prevalence,
    benjamini_hochberg,
    lifts,
    prevalence,
    strongest,
)


def test_share_and_delta_are_those_of_the_formulas() -> None:
    real, made = np.array([[1.0, 0.0, 4.0], [3.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
    found = prevalence(real, made)
    assert found.real.tolist() == [2.0, 0.0, 2.0] and found.generated.tolist() == [0.5, 0.0, 2.0]
    assert found.share[0] == 0.5 / 2.5 and math.isnan(found.share[1]) and found.share[2] == 0.5
    assert found.delta[0] == pytest.approx(1 / (1 + math.exp(1.5)))
    assert found.verdict[1] == "rare" and math.isnan(found.q[1])


def test_p_is_the_share_of_all_exchanges_of_pairs() -> None:
    rng = np.random.default_rng(1)
    real, made = rng.random((7, 4)), rng.random((7, 4)) ** 2
    by_hand = np.zeros(4)
    for signs in itertools.product((1, -1), repeat=7):
        moved = np.array(signs) @ (made - real)
        by_hand += np.abs(moved) >= np.abs((made - real).sum(0)) - 1e-9
    found = prevalence(real, made, "exchange")
    assert found.p == pytest.approx(by_hand / 2**7, abs=0.02)


def test_p_without_pairs_is_the_share_of_all_divisions() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.random((5, 3)), rng.random((4, 3)) + 0.2
    every, observed, by_hand, count = np.concatenate([made, real]), np.abs(made.mean(0) - real.mean(0)), np.zeros(3), 0
    for chosen in itertools.combinations(range(9), 4):
        rest = [i for i in range(9) if i not in chosen]
        by_hand += np.abs(every[list(chosen)].mean(0) - every[rest].mean(0)) >= observed - 1e-9
        count += 1
    found = prevalence(real, made, paired=False)
    assert found.p == pytest.approx(by_hand / count, abs=0.02)


def test_q_is_benjamini_and_hochbergs() -> None:
    p = np.array([0.04, 0.001, 0.03, 0.2, 0.03])
    ranked = sorted(range(5), key=lambda i: p[i])
    by_hand = [min(1.0, *(p[j] * 5 / (ranked.index(j) + 1) for j in ranked[ranked.index(i) :])) for i in range(5)]
    assert benjamini_hochberg(p) == pytest.approx(by_hand)
    assert len(benjamini_hochberg(np.zeros(0))) == 0


def test_what_one_side_lacks_is_found_and_what_both_have_is_not() -> None:
    rng = np.random.default_rng(3)
    real, made = (np.abs(rng.normal(size=(60, 50))) * (rng.random((60, 50)) < 0.3) for _ in range(2))
    made[:, 3] *= 0.1
    made[:, 5] *= 8
    found = prevalence(real, made, 1)
    assert strongest(found, "suppressed") == [3] and strongest(found, "exaggerated") == [5]
    assert found.low[3] < found.share[3] < found.high[3] < 1 / 3 and found.q[3] <= 0.05
    assert {v for i, v in enumerate(found.verdict) if i not in (3, 5)} == {"alike"}


def test_real_against_real_flags_something_in_few_runs() -> None:
    rng = np.random.default_rng(4)
    flagged = 0
    for run in range(40):
        real, made = (np.abs(rng.normal(size=(40, 60))) * (rng.random((40, 60)) < 0.1) for _ in range(2))
        flagged += {"suppressed", "exaggerated"} & {*prevalence(real, made, run).verdict} != set()
    assert flagged <= 5


def test_what_a_model_draws_too_rarely_anyway_is_not_blamed_on_a_removal() -> None:
    rng = np.random.default_rng(9)
    shown = np.arange(480) % 20
    real, unedited = (np.abs(rng.normal(size=(480, 40))) * 0.1 * (rng.random((480, 40)) < 0.2) for _ in range(2))
    for side in (real, unedited):
        side[np.arange(480), shown] += 1 + rng.random(480)
    unedited[shown == 7, 7] *= 0.03
    edited = unedited.copy()
    edited[shown == 3, 3] *= 0.1
    assert strongest(prevalence(real, edited), "suppressed")[0] == 7
    found = prevalence(unedited, edited)
    assert strongest(found, "suppressed") == [3] and found.p[7] == 1
    assert not strongest(prevalence(unedited, unedited), "suppressed")


def test_a_concept_of_few_pictures_is_found_by_counting_where_its_latent_is_faint_elsewhere() -> None:
    rng = np.random.default_rng(10)
    unedited = 0.05 + 0.01 * rng.random((480, 40))
    shown = np.arange(480) % 20 == 3
    unedited[shown, 3] += 0.5
    edited = unedited.copy()
    edited[shown, 3] -= 0.5
    by_mass = prevalence(unedited, edited)
    assert by_mass.share[3] > 1 / 3 and not strongest(by_mass, "suppressed")
    found = prevalence(unedited, edited, counted=(unedited > 0.3, edited > 0.3))
    assert strongest(found, "suppressed") == [3] and found.share[3] == found.high[3] == 0
    assert found.p == pytest.approx(by_mass.p, nan_ok=True)
    assert np.isnan(found.share[5]) and found.verdict[5] == "alike"


def test_a_large_difference_of_few_pictures_is_no_finding() -> None:
    real, made = np.random.default_rng(5).random((30, 4)), np.random.default_rng(6).random((30, 4))
    real[:, 0], made[:, 0] = 0, 0
    made[:3, 0] = 100.0
    found = prevalence(real, made)
    assert found.share[0] == 1 and found.verdict[0] == "alike" and found.p[0] == pytest.approx(0.25, abs=0.02)


def test_a_latent_below_the_floor_is_not_judged() -> None:
    real = np.ones((20, 2))
    real[:, 1] = FLOOR / 3
    made = np.ones((20, 2))
    made[:, 1] = 0
    assert prevalence(real, made).verdict == ["alike", "rare"]


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(7)
    real, made = rng.random((25, 1)), 3 * rng.random((25, 1))
    draws = [rng.integers(25, size=25) for _ in range(4000)]
    for paired in (True, False):
        shares = []
        for draw in draws:
            other = draw if paired else rng.integers(25, size=25)
            shares.append(made[other].mean() / (made[other].mean() + real[draw].mean()))
        found = prevalence(real, made, paired=paired)
        assert (found.low[0], found.high[0]) == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.01)


def test_pairs_without_partners_are_refused() -> None:
    with pytest.raises(ValueError, match="3 real and 2 generated"):
        prevalence(np.ones((3, 1)), np.ones((2, 1)))


def test_the_surest_come_first() -> None:
    share, low, high = np.array([0.1, 0.2, 0.9, 0.8]), np.array([0.0, 0.15, 0.7, 0.75]), np.array([0.3, 0.25, 1, 0.85])
    verdict = ["suppressed", "suppressed", "exaggerated", "exaggerated"]
    found = Prevalence(share, share, share, low, high, share, share, share, verdict)  # type: ignore[arg-type]
    assert strongest(found, "suppressed") == [1, 0] and strongest(found, "exaggerated") == [3, 2]


def test_lifts_are_those_of_counting() -> None:
    rng = np.random.default_rng(8)
    real, made = rng.random((80, 4)) < 0.5, rng.random((90, 4)) < 0.5
    made[:, 2] = made[:, 1]
    found = lifts(real, made)
    assert (found[0].a, found[0].b) == (1, 2) and len(found) == 6
    for pair in found:
        for side, lift in ((real, pair.real), (made, pair.generated)):
            both = sum(bool(row[pair.a] and row[pair.b]) for row in side)
            due = sum(row[pair.a] for row in side) * sum(row[pair.b] for row in side) / len(side)
            assert lift == pytest.approx((both + 0.5) / (due + 0.5))
    assert not lifts(real[:4], made[:4])
