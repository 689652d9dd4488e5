"""The mean of a figure over concepts, with an interval that allows for differences between concepts."""

from collections.abc import Sequence

import numpy as np

from saeuron.figures.metrics import wilson


def over_concepts(
    values: Sequence[tuple[float, int]], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """(mean, low, high) of fractions, one for each concept with equal weight; 95 % interval.

    At each end it is the wider of two intervals: a bootstrap over concepts, because some are harder than others, and
    Wilson's over all images, which keeps a width where every concept has the same value.

    Args:
        values: (fraction, number of images) of each concept, at least one.

    Raises:
        ValueError: there is no concept.
    """
    if not values:
        raise ValueError("no concept to average over: expected at least one")
    shares = np.array([value for value, _ in values])
    images = sum(n for _, n in values)
    mean = float(shares.mean())
    drawn = shares[np.random.default_rng(seed).integers(len(shares), size=(draws, len(shares)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    by_image = wilson(round(mean * images), images)
    return mean, min(float(low), by_image[0], mean), max(float(high), by_image[1], mean)
