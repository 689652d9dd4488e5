"""Several methods on the same concepts and images: figures with intervals, and differences to one of them.

Differences are paired by image; a method counts as better only by `Difference.beats`. By default all are compared with
the best. Their differences are then a little too low, because the best was chosen on the same images.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from saeuron.figures.comparison import METRICS, Difference, Pair, compare_all, share
from saeuron.figures.row import Removed

SHARES = (*METRICS, "CRA-target")
"""Metrics of each method that are shares of images."""


@dataclass(frozen=True)
class Entry:
    """One method."""

    method: str
    figures: Mapping[str, Difference]
    """UA, IRA, CRA, CRA-target and `mean`, each with its interval; `mean` is that of the first three."""
    difference: Difference | None
    """Difference of the mean from the method that all are compared with; None for that method itself."""
    becomes: Mapping[str, list[tuple[str, float]]]
    """{concept: [(label, share of the images asked for the concept that the judge gives it)]}, most frequent first."""


@dataclass(frozen=True)
class Contest:
    """Methods from the best mean to the worst."""

    against: str
    entries: tuple[Entry, ...]
    unedited: Mapping[str, Difference]
    """The ceiling: the same figures without any removal, on the same images."""


def contest(
    domains: Sequence[str],
    removed: Mapping[str, Sequence[Removed]],
    against: str = "",
    controls: Collection[str] = (),
) -> Contest:
    """Compare methods.

    Args:
        domains: all domains of the run.
        removed: {method: its removals}, for all methods with the same concepts and images.
        against: the method to compare the others with; empty: the one with the best mean, controls excluded.
        controls: the methods that are controls.
    """
    alone = {name: [(r.domain, Pair(r.concept, r.edited, None)) for r in of] for name, of in removed.items()}
    figures = {name: _figures(domains, pairs) for name, pairs in alone.items()}
    order = sorted(removed, key=lambda name: -(figures[name]["mean"].value or 0.0))
    chosen = against or next((name for name in order if name not in controls), order[0])
    first = {(r.domain, r.concept): r for r in removed[chosen]}
    entries = []
    for name in order:
        pairs = [(r.domain, Pair(r.concept, r.edited, first[r.domain, r.concept].edited)) for r in removed[name]]
        difference = None if name == chosen else compare_all(domains, pairs)
        entries.append(Entry(name, figures[name], difference, {r.concept: becomes(r) for r in removed[name]}))
    plain = [(r.domain, Pair(r.concept, r.unedited, None)) for r in removed[chosen]]
    return Contest(chosen, tuple(entries), _figures(domains, plain))


def _figures(domains: Sequence[str], pairs: Sequence[tuple[str, Pair]]) -> dict[str, Difference]:
    return {name: share(domains, pairs, name) for name in SHARES} | {"mean": compare_all(domains, pairs)}


def becomes(removal: Removed) -> list[tuple[str, float]]:
    """(label, share of the images asked for the concept that the judge gives it), most frequent first."""
    seen = [j.seen.get(removal.domain) for j in removal.edited if j.asked.get(removal.domain) == removal.concept]
    counts = Counter(name for name in seen if name is not None)
    return [(name, count / len(seen)) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
