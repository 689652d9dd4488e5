"""Compare two removals on the same images: the difference of (UA + IRA + CRA) / 3, with an interval.

Both were judged on the same (prompt, index) images, so what a prompt makes easy or hard cancels. Whole prompts are
resampled, because the images of a prompt are alike, and because the concepts of a comparison share prompts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saeuron.figures.metrics import Judged, questions, wilson

METRICS = ("UA", "IRA", "CRA")

MIN_DIFFERING = 6
"""Fewest prompts with a difference for one removal to beat another. Six tosses of a fair coin all agree in 1 of 32
cases; with four differing prompts the bootstrap alone would already be certain. A metric of fewer prompts than this
has no bootstrap interval at all, for the same reason."""


@dataclass(frozen=True)
class Pair:
    """Judged images of one concept, with each of two removals of it."""

    concept: str
    first: Sequence[Judged]
    second: Sequence[Judged] | None
    """None stands for a removal that is wrong on every image: the difference is then the figure of the first."""


@dataclass(frozen=True)
class Difference:
    """How much better the first removals are, as a fraction. None: something could not be judged."""

    value: float | None
    low: float | None
    """Ends of the 95 % percentile interval; None also where a metric has fewer than `MIN_DIFFERING` prompts."""
    high: float | None
    n_images: int
    n_prompts: int
    n_differ: int
    """Prompts with an image on which the two differ."""

    @property
    def beats(self) -> bool:
        """Whether the first are better: the interval is above 0, and enough prompts differ."""
        return self.low is not None and self.low > 0 and self.n_differ >= MIN_DIFFERING

    @property
    def loses(self) -> bool:
        """Whether the first are worse, by the same rule."""
        return self.high is not None and self.high < 0 and self.n_differ >= MIN_DIFFERING


@dataclass(frozen=True)
class Part:
    """One figure as sums over P prompts and G groups; its value is the mean over groups of gain / count."""

    figure: str
    """Parts of one figure, such as the UA of several concepts, stand in for each other in draws where one has none."""
    weight: float
    gain: NDArray[np.float64]
    """[P, G], images that only the first has right, minus images that only the second has right."""
    count: NDArray[np.float64]
    """[P, G], images."""

    def value(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of each draw, [draws]; `times`, [draws, P], says how often each prompt was drawn. NaN: no image."""
        gain, count = times @ self.gain, times @ self.count
        there = count > 0
        shares = np.divide(gain, count, out=np.zeros_like(gain), where=there)
        groups = there.sum(1).astype(np.float64)
        return np.divide(shares.sum(1), groups, out=np.full(len(groups), np.nan), where=groups > 0)


def total(parts: Sequence[Part], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of parts in each draw, [draws]; see `Part.value`. NaN where a figure has no image.

    A figure is sum_i w_i v_i, i over its parts. Those without an image in a draw leave their weight to the others.
    Where a part has fewer than `MIN_DIFFERING` prompts, w_i is multiplied by how many of its images were drawn, over
    how many it has: with one prompt a concept, whole concepts are resampled, and one drawn twice counts twice.
    """
    found = np.zeros(len(times))
    for figure in dict.fromkeys(part.figure for part in parts):
        mine = [part for part in parts if part.figure == figure]
        weights = np.array([part.weight for part in mine])
        values = np.stack([part.value(times) for part in mine])
        there = (~np.isnan(values)).astype(np.float64)
        if min((part.count > 0).any(1).sum() for part in mine) < MIN_DIFFERING:
            there = np.stack([times @ part.count.sum(1) / part.count.sum() for part in mine])
        left = weights @ there
        weighted = weights @ (there * np.nan_to_num(values)) * weights.sum()
        found += np.divide(weighted, left, out=np.full(len(times), np.nan), where=left > 0)
    return found


def ends(parts: Sequence[Part], prompts: int, *, seed: int = 0, draws: int = 2000) -> tuple[float, float] | None:
    """95 % percentile interval of `total` over draws of prompts, the value itself included.

    None: a figure has fewer than `MIN_DIFFERING` prompts. (With six, one draw in 400 has none of them, and is dropped.)
    """
    for figure in {part.figure for part in parts}:
        asked = np.any([(part.count > 0).any(1) for part in parts if part.figure == figure], axis=0)
        if asked.sum() < MIN_DIFFERING:
            return None
    value = float(total(parts, np.ones((1, prompts)))[0])
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=draws)
    low, high = np.nanpercentile(total(parts, drawn.astype(np.float64)), [2.5, 97.5])
    return min(float(low), value), max(float(high), value)


def compare(
    domain: str, domains: Sequence[str], pairs: Sequence[Pair], *, seed: int = 0, draws: int = 2000
) -> Difference:
    """The mean over concepts of the difference of (UA + IRA + CRA) / 3, paired by image.

    The interval is from a bootstrap over prompts.

    Args:
        domain: that of the concepts.
        domains: all domains of the run.

    Raises:
        ValueError: there are no pairs, or the two removals of one were not judged on the same images.
    """
    return compare_all(domains, [(domain, pair) for pair in pairs], seed=seed, draws=draws)


def compare_all(
    domains: Sequence[str],
    pairs: Sequence[tuple[str, Pair]],
    *,
    metrics: Sequence[str] = METRICS,
    seed: int = 0,
    draws: int = 2000,
) -> Difference:
    """Like `compare`, over concepts of several domains, (domain, pair), for the mean of chosen `metrics`.

    Domains count alike, however many concepts they have: it is the mean of each domain's mean.
    """
    if not pairs:
        raise ValueError("nothing to compare: expected the images of at least one concept")
    prompts = {name: i for i, name in enumerate(sorted({j.prompt_id for _, pair in pairs for j in pair.first}))}
    images = sum(len(pair.first) for _, pair in pairs)
    counts = Counter(domain for domain, _ in pairs)
    parts: list[Part] = []
    for domain, pair in pairs:
        mine = _parts(domain, [d for d in domains if d != domain], pair, prompts, metrics)
        if mine is None:
            return Difference(None, None, None, images, len(prompts), 0)
        alike = 1 / len(counts) / counts[domain]
        parts += [replace(part, weight=part.weight * alike) for part in mine]

    if not parts:
        # A run with one domain has no CRA.
        return Difference(None, None, None, images, len(prompts), 0)

    value = float(total(parts, np.ones((1, len(prompts))))[0])
    low, high = ends(parts, len(prompts), seed=seed, draws=draws) or (None, None)
    differ = int(np.any([(part.gain != 0).any(1) for part in parts], axis=0).sum())
    return Difference(value, low, high, images, len(prompts), differ)


def share(domains: Sequence[str], pairs: Sequence[tuple[str, Pair]], metric: str) -> Difference:
    """One metric, as the mean of each domain's mean over concepts; the pairs have no second removal.

    At each end the interval is the wider of a bootstrap over prompts and of Wilson's over all images, which keeps a
    width where every image is right. With too few prompts for the first it is the second.
    """
    found = compare_all(domains, pairs, metrics=(metric,))
    if found.value is None:
        return found
    names = {j.prompt_id: 0 for _, pair in pairs for j in pair.first}
    parts = [p for d, pair in pairs for p in _parts(d, [o for o in domains if o != d], pair, names, (metric,)) or []]
    right, images = (int(sum(getattr(p, name).sum() for p in parts)) for name in ("gain", "count"))
    low, high = wilson(right, images)
    if found.low is not None and found.high is not None:
        low, high = min(found.low, low), max(found.high, high)
    return replace(found, low=min(low, found.value), high=max(high, found.value), n_images=images)


def _parts(
    domain: str, others: Sequence[str], pair: Pair, prompts: dict[str, int], metrics: Sequence[str] = METRICS
) -> list[Part] | None:
    """The metrics that `saeuron.figures.metrics.summary` averages; None if one of their images was not judged."""
    against = pair.first if pair.second is None else pair.second
    second = {(j.prompt_id, j.index): j for j in against}
    if {(j.prompt_id, j.index) for j in pair.first} != second.keys() or len(pair.first) != len(against):
        raise ValueError(f"two removals of {pair.concept} were not judged on the same prompts and indices")
    asked = [q for q in questions(domain, pair.concept, others) if q.metric.split(" ")[0] in metrics]
    kinds = [q.metric.split(" ")[0] for q in asked]
    found = []
    for q, kind in zip(asked, kinds, strict=True):
        mine = [(j, second[j.prompt_id, j.index]) for j in pair.first if q.member(j)]
        if not mine or any(j.seen.get(q.domain) is None for both in mine for j in both):
            return None
        names = [j.asked[q.by] if q.by else "" for j, _ in mine]
        group = {name: i for i, name in enumerate(sorted({*names}))}
        gain, count = np.zeros((2, len(prompts), len(group)))
        for (a, b), name in zip(mine, names, strict=True):
            at = prompts[a.prompt_id], group[name]
            won, lost = a.right(q.domain) != q.wrong, b.right(q.domain) != q.wrong
            gain[at] += float(won) - (0.0 if pair.second is None else float(lost))
            count[at] += 1
        found.append(Part(f"{domain} {q.metric}", 1 / len({*kinds}) / kinds.count(kind), gain, count))
    return found
