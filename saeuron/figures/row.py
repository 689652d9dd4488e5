"""One row of a table of methods: the figures of several removals by one method, and of each removal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saeuron.figures.comparison import Difference, Pair, compare_all, share
from saeuron.figures.damage import Damage, damage
from saeuron.figures.metrics import Judged, Metric, evaluate, summary

METRICS = ("UA", "IRA", "CRA")

Ends = tuple[float | None, float | None]
"""Ends of a 95 % interval; None: something could not be judged."""


@dataclass(frozen=True)
class Removed:
    """Judged images of one removal; all of the same prompts and seeds."""

    domain: str
    concept: str
    edited: Sequence[Judged]
    unedited: Sequence[Judged]
    control: Sequence[Judged] | None = None
    """Judged images with the untrained control's removal of the same concept; None: no such control."""
    random: Sequence[Judged] | None = None
    """The same of the control with latents drawn at random."""
    odd: tuple[float, float] | None = None
    """Shares of the images asked to show the concept that do not look like the model's own, with the removal and
    without; None: no judge tells."""


@dataclass(frozen=True)
class Figures:
    """The figures of one removal, or means over several, as fractions. None: something could not be judged."""

    UA: float | None
    IRA: float | None
    CRA: float | None
    mean: float | None
    """(UA + IRA + CRA) / 3."""


@dataclass(frozen=True)
class Measured:
    """One removal of the row."""

    domain: str
    concept: str
    edited: Figures
    unedited: Figures
    victim: Damage | None
    """The other concept that loses most; None: no judge saw another."""
    odd: tuple[float, float] | None
    """Same as `Removed.odd`."""
    intervals: Mapping[str, Ends]
    """Of UA, IRA, CRA and mean, as `Row.intervals`."""
    difference: Difference | None
    minus_random: Difference | None
    """As those of the row."""


@dataclass(frozen=True)
class Row:
    """One method: means over its removals."""

    removals: tuple[Measured, ...]
    edited: Figures
    low: float | None
    """Ends of the 95 % interval of the mean, a bootstrap over prompts; too narrow near 0 and 1."""
    high: float | None
    unedited: Figures
    difference: Difference | None
    """Difference from the untrained control, paired by image; None: not every removal has such a control."""
    images: int
    """Images with a removal; those of the unedited model are as many."""
    minus_random: Difference | None
    """The same from the control with latents drawn at random."""
    intervals: Mapping[str, Ends]
    """95 % intervals of UA, IRA and CRA, as `saeuron.figures.comparison.share` has them, and of the mean."""

    @property
    def odd(self) -> tuple[float, float] | None:
        """Means over the removals of `Measured.odd`; None: not every removal has it."""
        known = [each.odd for each in self.removals if each.odd]
        if not known or len(known) < len(self.removals):
            return None
        edited, unedited = (sum(shares) / len(known) for shares in zip(*known, strict=True))
        return edited, unedited

    @property
    def worst(self) -> Measured | None:
        """The removal with the worst victim."""
        harmful = [each for each in self.removals if each.victim]
        return max(harmful, key=lambda each: each.victim.loss if each.victim else 0.0, default=None)


def row(domains: Sequence[str], removed: Sequence[Removed]) -> Row:
    """The row of one method.

    Args:
        domains: all domains of the protocol.
        removed: its removals, at least one.
    """
    measured = []
    for each in removed:
        found = evaluate(each.domain, each.concept, domains, each.edited, each.unedited)
        plain = evaluate(each.domain, each.concept, domains, each.unedited, each.unedited)
        victim = next(iter(damage(each.domain, each.concept, each.edited, each.unedited)), None)
        beside = (_intervals(domains, [each]), *_differences(domains, [each]))
        measured.append(
            Measured(each.domain, each.concept, _figures(found), _figures(plain), victim, each.odd, *beside)
        )
    intervals, (untrained, random) = _intervals(domains, removed), _differences(domains, removed)
    return Row(
        tuple(measured),
        _over([each.edited for each in measured]),
        *intervals["mean"],
        _over([each.unedited for each in measured]),
        untrained,
        sum(len(each.edited) for each in removed),
        random,
        intervals,
    )


def _intervals(domains: Sequence[str], removed: Sequence[Removed]) -> dict[str, Ends]:
    pairs = [(each.domain, Pair(each.concept, each.edited, None)) for each in removed]
    found = {name: share(domains, pairs, name) for name in METRICS} | {"mean": compare_all(domains, pairs)}
    return {name: (each.low, each.high) for name, each in found.items()}


def _differences(domains: Sequence[str], removed: Sequence[Removed]) -> tuple[Difference | None, Difference | None]:
    """Minus the untrained control, minus the random one; None where not every removal has it."""

    def minus(controls: Sequence[Sequence[Judged] | None]) -> Difference | None:
        both = zip(removed, controls, strict=True)
        pairs = [(r.domain, Pair(r.concept, r.edited, seen)) for r, seen in both if seen is not None]
        return compare_all(domains, pairs) if len(pairs) == len(removed) else None

    return minus([each.control for each in removed]), minus([each.random for each in removed])


def _figures(metrics: Sequence[Metric]) -> Figures:
    """Figures of one removal. CRA is the mean over all other domains, as in `saeuron.figures.metrics.summary`."""
    of = {name: _mean([m.value for m in metrics if m.metric.split(" ")[0] == name]) for name in METRICS}
    return Figures(**of, mean=summary(metrics))


def _mean(values: Sequence[float | None]) -> float | None:
    """None where there is no value, or one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _over(figures: Sequence[Figures]) -> Figures:
    return Figures(**{name: _mean([getattr(each, name) for each in figures]) for name in (*METRICS, "mean")})
