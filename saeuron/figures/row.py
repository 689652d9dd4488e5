"""One row of a table of methods: the figures of several removals by one method, and of each removal."""

from collections.abc import Sequence
from dataclasses import dataclass

from saeuron.figures.comparison import Difference, Pair, compare_all
from saeuron.figures.damage import Damage, damage
from saeuron.figures.metrics import Judged, Metric, evaluate, summary

METRICS = ("UA", "IRA", "CRA")


@dataclass(frozen=True)
class Removed:
    """Judged images of one removal; all of the same prompts and seeds."""

    domain: str
    concept: str
    edited: Sequence[Judged]
    unedited: Sequence[Judged]
    control: Sequence[Judged] | None = None
    """Judged images with the control's removal of the same concept; None: no control."""
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
    """Difference from the control, paired by image; None: not every removal has a control."""
    images: int
    """Images with a removal; those of the unedited model are as many."""

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
        measured.append(Measured(each.domain, each.concept, _figures(found), _figures(plain), victim, each.odd))
    alone = compare_all(domains, [(each.domain, Pair(each.concept, each.edited, None)) for each in removed])
    paired = [(r.domain, Pair(r.concept, r.edited, r.control)) for r in removed if r.control is not None]
    return Row(
        tuple(measured),
        _over([each.edited for each in measured]),
        alone.low,
        alone.high,
        _over([each.unedited for each in measured]),
        compare_all(domains, paired) if len(paired) == len(removed) else None,
        sum(len(each.edited) for each in removed),
    )


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
