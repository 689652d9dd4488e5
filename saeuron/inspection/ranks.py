"""Compare a ranking with a better one: Spearman's correlation, and the AUC for the top quarter."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from saeuron.noise import derive_seed

Numbers = NDArray[np.float64]
_DRAWS = 1000


def ranks(values: Numbers) -> Numbers:
    """Rank of each value, from 1; ties get the mean of their ranks."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: Numbers = ((last - counts + 1 + last) / 2)[group]
    return mean


def spearman(a: Sequence[float] | Numbers, b: Sequence[float] | Numbers) -> float | None:
    """Spearman's rank correlation; None if one of the two has no spread."""
    x, y = (ranks(np.asarray(v, dtype=np.float64)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else None


def top_quarter(values: Sequence[float] | Numbers) -> NDArray[np.bool_]:
    """Which of the values are the largest quarter, at least one; of equal ones the earlier."""
    found = np.asarray(values, dtype=np.float64)
    chosen = np.zeros(len(found), dtype=bool)
    chosen[np.argsort(-found, kind="stable")[: max(1, round(len(found) / 4))]] = True
    return chosen


def auc(scores: Sequence[float] | Numbers, positive: NDArray[np.bool_]) -> float | None:
    """Chance that a positive has the larger score; ties count half. None without positives or without others."""
    of, n = ranks(np.asarray(scores, dtype=np.float64)), int(positive.sum())
    if not 0 < n < len(positive):
        return None
    return float((of[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def resampled(
    a: Numbers, b: Numbers, figure: Callable[[Numbers, Numbers], float | None], *parts: object
) -> tuple[float | None, float | None]:
    """The 95 % interval of a figure of two rankings of the same things, by a bootstrap over the things."""
    chance = np.random.default_rng(derive_seed("resampled", *parts))
    draws = (chance.integers(len(a), size=len(a)) for _ in range(_DRAWS))
    found = [value for draw in draws if (value := figure(a[draw], b[draw])) is not None]
    if not found:
        return None, None
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
