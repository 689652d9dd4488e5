"""How far a picture is from what its kind looks like to the latents: out of distribution.

    score = min_c (1 - cos(xi, q_c)) + weight * error / spread,   q_c the mean xi of the real pictures of kind c

`error` is what the latents do not rebuild, less its mean on real pictures, and `spread` its standard deviation there.
The threshold is the 99 % quantile of held-out real pictures. A picture without labels is a kind of its own. 2508.11277,
from which the idea is, was read no further than its introduction; the form is chosen here. `saeuron.canvas.realism` is
the baseline: a Mahalanobis distance of the classifier's own features, which needs no latents but objects and styles.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saeuron.blindspots.dictionary import Strengths

Numbers = NDArray[np.float64]
WEIGHT = 0.25
"""Weight of the error; it was not searched for. docs/log.md also has the score without it."""
QUANTILE = 0.99


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
        fit: real pictures that profiles are made of. labels: what each shows.
        held_out: other real pictures, for the errors and the threshold.
    """
    kinds: list[Hashable] = [tuple(sorted(shown.items(), key=str)) or i for i, shown in enumerate(labels)]
    known = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    profiles = np.zeros((len(known), fit.mean.shape[1]))
    np.add.at(profiles, [known[kind] for kind in kinds], fit.mean)
    size = np.linalg.norm(profiles, axis=1, keepdims=True)
    profiles = np.divide(profiles, size, out=np.zeros_like(profiles), where=size > 0)
    spread = float(held_out.error.std()) or 1.0
    found = Usual(profiles, float(held_out.error.mean()), spread, weight)
    return replace(found, threshold=float(np.quantile(found.score(held_out), QUANTILE)))


def shuffled(found: Usual, seed: int) -> Usual:
    """The control: profiles whose numbers have changed places among latents, and no error; it must not tell."""
    order = np.random.default_rng(seed).permutation(found.profiles.shape[1])
    return replace(found, profiles=found.profiles[:, order], weight=0.0, threshold=np.inf)
