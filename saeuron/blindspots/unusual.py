"""How far a picture is from what its kind looks like to the latents: out of distribution.

    score = min_c (1 - cos(xi, q_c)) + weight * error / spread,   q_c the mean xi of the real pictures of kind c

`error` is what the latents do not rebuild, less its mean on real pictures, and `spread` its standard deviation there.
A picture without labels is a kind of its own. 2508.11277, from which the idea is, was read no further than its
introduction; the form is chosen here. `saeuron.canvas.realism` is the baseline: a Mahalanobis distance of the
classifier's own features, which needs no latents but objects and styles.

The threshold is split conformal: of n held-out real pictures, from which neither latents nor profiles were learned, the
score that is ceil((n + 1) (1 - rate))-th in order. If a new real picture is drawn as they were, the chance that it
scores more is at most `rate`, whatever the scores are; with fewer than 1 / rate - 1 of them no threshold does that.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saeuron.blindspots.dictionary import Strengths

Numbers = NDArray[np.float64]
WEIGHT = 0.25
"""Weight of the error; it was not searched for. docs/log.md also has the score without it."""
RATE = 0.01
"""Share of new real pictures that may be called unusual."""
FEWEST = math.ceil(1 / RATE) - 1
"""Held-out pictures that a threshold takes."""


@dataclass(frozen=True)
class Usual:
    """Statistics of real pictures."""

    profiles: Numbers
    """[kinds, N], of unit length."""
    mean: float
    """Mean error on real pictures."""
    spread: float
    weight: float
    threshold: float = np.inf
    """Infinite: too few pictures were held out."""

    def score(self, of: Strengths) -> Numbers:
        """[n]; the larger, the less usual."""
        size = np.linalg.norm(of.mean, axis=1, keepdims=True)
        unit = np.divide(of.mean, size, out=np.zeros_like(of.mean), where=size > 0)
        away = 1 - (unit @ self.profiles.T).max(1)
        found: Numbers = away + self.weight * (of.error - self.mean) / self.spread
        return found

    def unusual(self, of: Strengths) -> NDArray[np.bool_]:
        """Whether the score is above the threshold."""
        return self.score(of) > self.threshold


def usual(
    fit: Strengths, labels: Sequence[Mapping[str, str | None]], held_out: Strengths, weight: float = WEIGHT
) -> Usual:
    """Profiles of the kinds of some real pictures, and the threshold of others.

    Args:
        fit: real pictures that profiles, and the mean and spread of the error, are made of. labels: what each shows.
        held_out: other real pictures, from which nothing was learned.
    """
    kinds: list[Hashable] = [tuple(sorted(shown.items(), key=str)) or i for i, shown in enumerate(labels)]
    known = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    profiles = np.zeros((len(known), fit.mean.shape[1]))
    np.add.at(profiles, [known[kind] for kind in kinds], fit.mean)
    size = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles = np.divide(profiles, size, out=np.zeros_like(profiles), where=size > 0)
    found = Usual(profiles, float(fit.error.mean()), float(fit.error.std()) or 1.0, weight)
    return replace(found, threshold=conformal(found.score(held_out)))


def conformal(scores: Numbers, rate: float = RATE) -> float:
    """The threshold of held-out scores [n] that a new one exceeds with a chance of at most `rate`; inf: too few."""
    # Rounding must not cost a place where rate (n + 1) is whole.
    above = math.floor(rate * (len(scores) + 1) + 1e-9)
    return float(np.sort(scores)[len(scores) - above]) if above else np.inf


def shuffled(found: Usual, of: Strengths, seed: int) -> Numbers:
    """The control: scores [n] of pictures whose numbers have changed places among latents, without the error.

    They tell nothing of how far a picture is from its kind, only of how its numbers are spread. Each picture is
    shuffled by itself: with one order for all, whether a plant of few latents is near or far is one throw of the dice.
    """
    mean = np.random.default_rng(seed).permuted(of.mean, axis=1)
    return replace(found, weight=0.0).score(of._replace(mean=mean))
