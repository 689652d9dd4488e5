"""How far a picture is from its kind, beside a loop; plants and the shuffled control."""

import numpy as np
import pytest

from saeuron.blindspots.dictionary import Strengths
from saeuron.blindspots.unusual import FEWEST, conformal, shuffled, usual
from saeuron.inspection.ranks import auc


def made(rng: np.random.Generator, n: int) -> tuple[Strengths, list[dict[str, str | None]]]:
    """Pictures of two kinds, each with latents of its own."""
    kinds = [i % 2 for i in range(n)]
    mean = rng.random((n, 20)) * 0.1
    for i, kind in enumerate(kinds):
        mean[i, 5 * kind : 5 * kind + 5] += 1 + 0.2 * rng.random(5)
    return Strengths(mean, mean, 0.2 + 0.02 * rng.normal(size=n)), [{"style": "ab"[kind]} for kind in kinds]


def test_the_score_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    (fit, labels), (held, _), (new, _) = made(rng, 40), made(rng, 250), made(rng, 10)
    found = usual(fit, labels, held, 0.25)
    profiles = [fit.mean[[i for i in range(40) if labels[i]["style"] == style]].mean(0) for style in "ab"]

    def by_hand(of: Strengths, i: int) -> float:
        x = of.mean[i]
        away = min(1 - x @ q / np.linalg.norm(x) / np.linalg.norm(q) for q in profiles)
        return float(away + 0.25 * (of.error[i] - fit.error.mean()) / fit.error.std())

    assert found.score(new) == pytest.approx([by_hand(new, i) for i in range(10)])
    # ceil(251 * 0.99) = 249 of 250
    assert found.threshold == pytest.approx(sorted(by_hand(held, i) for i in range(250))[248])


def test_pictures_of_no_kind_are_told_and_shuffled_profiles_tell_nothing() -> None:
    rng = np.random.default_rng(2)
    (fit, labels), (held, _), (new, _) = made(rng, 60), made(rng, 120), made(rng, 60)
    odd = Strengths(rng.random((60, 20)), rng.random((60, 20)), 0.3 + 0.02 * rng.normal(size=60))
    found, planted = usual(fit, labels, held), np.arange(120) >= 60
    score = auc(np.concatenate([found.score(new), found.score(odd)]), planted)
    assert score is not None and score > 0.95 and found.unusual(odd).mean() > 0.9 and found.unusual(new).mean() < 0.1
    chance = auc(np.concatenate([shuffled(found, new, 1), shuffled(found, odd, 2)]), planted)
    assert chance is not None and chance < 0.65


def test_a_picture_without_labels_is_a_kind_of_its_own_and_a_silent_one_is_far() -> None:
    rng = np.random.default_rng(3)
    fit, _ = made(rng, 7)
    found = usual(fit, [{}] * 7, fit, 0.0)
    assert found.profiles.shape[0] == 7 and found.score(fit) == pytest.approx(np.zeros(7), abs=1e-12)
    silent = Strengths(np.zeros((1, 20)), np.zeros((1, 20)), np.array([0.2]))
    assert found.score(silent)[0] == 1


@pytest.mark.parametrize("n", [FEWEST, 150, 250])
def test_a_threshold_of_held_out_scores_is_exceeded_as_rarely_as_was_asked(n: int) -> None:
    """The chance that a new uniform number is above the threshold is 1 - threshold, so nothing has to be counted."""
    rng = np.random.default_rng(4)
    exceeded = np.mean([1 - conformal(rng.random(n)) for _ in range(4000)])
    exact = np.floor(0.01 * (n + 1)) / (n + 1)
    assert exceeded == pytest.approx(exact, rel=0.06) and exact <= 0.01


def test_too_few_held_out_scores_give_no_threshold() -> None:
    scores = np.arange(float(FEWEST))
    assert FEWEST == 99 and conformal(scores) == 98 and conformal(scores[1:]) == np.inf
    rng = np.random.default_rng(5)
    (fit, labels), (held, _) = made(rng, 20), made(rng, FEWEST - 1)
    assert not usual(fit, labels, held).unusual(Strengths(np.zeros((1, 20)), np.zeros((1, 20)), np.array([9.0]))).any()


def test_the_shuffled_control_of_alike_pictures_is_no_single_throw_of_the_dice() -> None:
    rng = np.random.default_rng(6)
    (fit, labels), (held, _), (new, _) = made(rng, 60), made(rng, 120), made(rng, 400)
    found = usual(fit, labels, held)
    alike = rng.random((400, 20)) * 0.1
    alike[:, 14:19] += 1 + 0.2 * rng.random((400, 5))
    plant = Strengths(alike, alike, np.full(400, 0.2))
    scores = [auc(np.concatenate([found.score(new), found.score(plant)]), np.arange(800) >= 400)]
    for seed in range(5):
        by_chance = np.concatenate([shuffled(found, new, seed), shuffled(found, plant, 100 + seed)])
        scores.append(auc(by_chance, np.arange(800) >= 400))
    assert scores[0] == 1 and all(score is not None and abs(score - 0.5) < 0.1 for score in scores[1:]), scores
