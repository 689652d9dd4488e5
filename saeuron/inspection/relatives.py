"""How alike concepts are, from what latents do on them: similarities, nearest relatives, a tree, and their controls.

    r_c = share(i, t, c) = mean(i, t, c) / sum_j mean(j, t, c)    over all latents i and steps t
    S_ab = cosine of r_a - r and r_b - r,  r the mean over concepts

The scale of a step is its own sum, as in the score of a latent (saeuron/scoring.py), so that every step counts alike;
that is a choice, because 2508.11277, whose idea the tree is, was read as an abstract only.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeuron.inspection.ranks import ranks
from saeuron.noise import derive_seed
from saeuron.scoring import DELTA

Numbers = NDArray[np.float64]
DRAWS = 1999
"""Permutations of names behind a p value."""
NEAREST = 3
"""Relatives of a concept that are said to be near."""
_ROUNDING = 1e-24


def similarity(blocks: Iterable[Numbers]) -> Numbers:
    """S, float64 [C, C].

    Args:
        blocks: the means of one step and SAE, float64 [C, N] each; their N may differ.

    Returns:
        Cosines; 0 for a concept that is the mean in every number. The diagonal is 1.
    """
    products, sizes = np.zeros((0, 0)), np.zeros(0)
    for means in blocks:
        shares = means / (means.sum(1, keepdims=True) + DELTA)
        if not len(sizes):
            products, sizes = np.zeros((len(means),) * 2), np.zeros(len(means))
        rest = shares - shares.mean(0)
        products, sizes = products + rest @ rest.T, sizes + (shares**2).sum(1)
    # A remainder that rounding explains has no direction.
    length = np.sqrt(np.where(np.diagonal(products) > _ROUNDING * sizes, np.diagonal(products), 0))
    scale = np.outer(length, length)
    cosines: Numbers = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0).clip(-1, 1)
    np.fill_diagonal(cosines, 1.0)
    return cosines


def nearest(similar: Numbers, of: int, count: int = NEAREST) -> list[int]:
    """The most similar others, the nearest first; of equal ones the earlier."""
    order = np.argsort(-similar[of], kind="stable")
    return [int(i) for i in order if i != of][:count]


class Join(NamedTuple):
    """Two groups that become one."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    similarity: float
    """Mean similarity of their members."""


def tree(similar: Numbers) -> list[Join]:
    """Average linkage: the two groups with the largest mean similarity become one, until one is left. C - 1 joins.

    Of equal pairs the one with the earliest members is first.
    """
    groups: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(similar))}
    means = similar.astype(np.float64).copy()
    np.fill_diagonal(means, -np.inf)
    joins = []
    while len(groups) > 1:
        # The first of the largest, row by row, so i < j.
        i, j = (int(k) for k in np.unravel_index(np.argmax(means), means.shape))
        joins.append(Join(groups[i], groups[j], float(means[i, j])))
        m, n = len(groups[i]), len(groups[j])
        with np.errstate(invalid="ignore"):
            merged = (m * means[i] + n * means[j]) / (m + n)
        merged[[i, j]] = -np.inf
        means[i], means[:, i] = merged, merged
        means[j], means[:, j] = -np.inf, -np.inf
        groups[i] += groups.pop(j)
    return joins


def drawn(joins: Sequence[Join], names: Sequence[str], width: int = 79) -> list[str]:
    """A tree as text, a line for each name; the further to the right two are joined, the less alike they are."""
    if not joins:
        return list(names)
    order = (*joins[-1].left, *joins[-1].right)
    line = {i: at for at, i in enumerate(order)}
    label = min(max(map(len, names)), width // 2)
    low, high = min(j.similarity for j in joins), max(j.similarity for j in joins)
    room = width - label - 2

    def column(value: float) -> int:
        return round((high - value) / (high - low) * (room - 1)) if high > low else room - 1

    cells = [[" "] * room for _ in order]
    end = dict.fromkeys(range(len(order)), -1)
    for join in joins:
        at = column(join.similarity)
        top, bottom = line[join.left[0]], line[join.right[0]]
        for row in (top, bottom):
            for c in range(end[row] + 1, at):
                cells[row][c] = "-"
        for row in range(top, bottom + 1):
            cells[row][at] = "+" if row in (top, bottom) or cells[row][at] == "+" else "|"
        end[top] = max(end[top], at)
    return [f"{names[i][:label]:<{label}} -{''.join(cells[row]).rstrip()}" for i, row in line.items()]


class Chance(NamedTuple):
    """A figure beside the same with permuted names."""

    value: float | None
    """None if it cannot be said, for example where nothing varies."""
    p: float | None
    """Share of permutations with at least this value, the given names among them."""


def mantel(a: Numbers, b: Numbers, *seed: object, draws: int = DRAWS) -> Chance:
    """Spearman's rank correlation of two similarities [C, C] over pairs, and its chance when names are permuted."""
    upper = np.triu_indices(len(a), 1)
    x, y = ranks(a[upper]), ranks(b[upper])
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    if not size > 0:
        return Chance(None, None)
    square = np.zeros_like(a, dtype=np.float64)
    square[upper] = x
    square += square.T
    value = float(x @ y) / size
    rng = np.random.default_rng(derive_seed("mantel", *seed))
    count = 0
    for _ in range(draws):
        order = rng.permutation(len(a))
        # Rounding must not tell equal orders apart.
        count += float(square[np.ix_(order, order)][upper] @ y) / size >= value - 1e-12
    return Chance(value, (count + 1) / (draws + 1))


def on_nearest(similar: Numbers, loss: Numbers, *seed: object, count: int = NEAREST, draws: int = DRAWS) -> Chance:
    """The share of losses that falls on the nearest relatives of what is removed, and its chance for permuted names.

    Args:
        similar: [C, C].
        loss: what concept b loses when a is removed, [C, C], NaN where that was not measured; gains count as 0.
    """
    lost = np.nan_to_num(loss, nan=0.0).clip(min=0)
    np.fill_diagonal(lost, 0.0)
    total = float(lost.sum())
    if not total > 0:
        return Chance(None, None)

    removed = np.flatnonzero(lost.sum(1))
    near = np.array([nearest(similar, a, count) for a in range(len(similar))])
    rows = removed[:, None]
    value = float(lost[rows, near[removed]].sum()) / total
    rng = np.random.default_rng(derive_seed("on nearest", *seed))
    found = 0
    for _ in range(draws):
        # Concept a takes the relatives of order[a], by the names that these have then.
        order = rng.permutation(len(similar))
        named = np.argsort(order)
        found += float(lost[rows, named[near[order[removed]]]].sum()) / total >= value - 1e-12
    return Chance(value, (found + 1) / (draws + 1))
