"""Figures of several removals at once: what is gone, and what stays.

    removed    accuracy of a removed concept's domain on the images asked to show it; UA is 1 - their mean
    retained   the same of a concept that stays, on images that ask for no removed concept
    IRA        mean of `retained` over the concepts of a domain that something is removed from; of several, their mean
    CRA        accuracy of another domain on images that ask for both and for no removed concept
    RA         (IRA + CRA) / 2; without another domain IRA

Intervals are 95 %: at each end the wider of a bootstrap over prompts and of Wilson's over the images. The bootstrap
alone has no width where every image is right; a figure of few prompts has Wilson's alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from saeuron.figures.comparison import Part, ends, total
from saeuron.figures.metrics import Judged, wilson


@dataclass(frozen=True)
class Share:
    """One figure, as a fraction. None: there is no image, or no judge."""

    role: str
    measured: str | None
    """The concept; None: a mean over several."""
    accuracy: float | None
    low: float | None
    high: float | None
    n: int
    """Images."""


def shares(
    domains: Sequence[str], removed: Mapping[str, str], over: Collection[str], images: Sequence[Judged], seed: int = 0
) -> list[Share]:
    """Every figure of one state of the model.

    Args:
        domains: all domains of the run.
        removed: {concept: its domain} of what is removed now.
        over: domains to compute IRA over: those of all concepts that are removed in the end.
        images: what judges saw.
    """
    prompts = {name: i for i, name in enumerate(sorted({j.prompt_id for j in images}))}
    rest = [j for j in images if not any(removed.get(c) == d for d, c in j.asked.items())]
    found, gone, inside, across = list[Share](), list[_Asked](), list[_Asked](), list[_Asked]()

    def noted(role: str, measured: str | None, parts: Sequence[_Asked]) -> None:
        found.append(_share(role, measured, parts, len(prompts), seed))

    for concept, domain in sorted(removed.items()):
        gone.append(_part([j for j in images if j.asked.get(domain) == concept], domain, prompts))
        noted("removed", concept, gone[-1:])
    noted("removed", None, gone)
    for domain in domains:
        stay = sorted({j.asked[domain] for j in rest if domain in j.asked})
        for concept in stay:
            noted("retained", concept, [_part([j for j in rest if j.asked.get(domain) == concept], domain, prompts)])
        if domain not in over:
            continue
        inside.append(_part([j for j in rest if domain in j.asked], domain, prompts, by=domain))
        for other in domains:
            if other != domain:
                across.append(_part([j for j in rest if domain in j.asked and other in j.asked], other, prompts))
    noted("IRA", None, inside)
    if across:
        noted("CRA", None, across)
    # Each of the two halves counts as much, however many domains it is over.
    noted("RA", None, [*_labelled("IRA", inside * len(across)), *_labelled("CRA", across * len(inside))] or inside)
    return found


class _Asked(NamedTuple):
    """Some images, and where a domain's judge is right on them."""

    images: frozenset[tuple[str, int]]
    right: Part | None
    """Images by prompt, and by concept if it is a mean over concepts; None: no image, or one was not judged."""


def _part(images: Sequence[Judged], domain: str, prompts: Mapping[str, int], by: str | None = None) -> _Asked:
    """Images for which the judge of `domain` is right; `by`: take a mean over the concepts of this domain."""
    keys = frozenset((j.prompt_id, j.index) for j in images)
    if not images or any(j.seen.get(domain) is None for j in images):
        return _Asked(keys, None)
    names = [j.asked[by] if by else "" for j in images]
    group = {name: i for i, name in enumerate(sorted({*names}))}
    gain, count = np.zeros((2, len(prompts), len(group)))
    for j, name in zip(images, names, strict=True):
        gain[prompts[j.prompt_id], group[name]] += j.right(domain)
        count[prompts[j.prompt_id], group[name]] += 1
    return _Asked(keys, Part("", 1.0, gain, count))


def _labelled(figure: str, parts: Sequence[_Asked]) -> list[_Asked]:
    """The same as parts of a figure: a draw without images of one takes the others of this figure in its place."""
    return [p._replace(right=p.right and replace(p.right, figure=figure)) for p in parts]


def _share(role: str, measured: str | None, parts: Sequence[_Asked], prompts: int, seed: int) -> Share:
    """The mean of the parts."""
    known = [p.right for p in parts if p.right is not None]
    n = len(frozenset[tuple[str, int]]().union(*(p.images for p in parts)))
    if not known or len(known) < len(parts):
        return Share(role, measured, None, None, None, n)

    mean = [replace(p, weight=1 / len(known)) for p in known]
    value = float(total(mean, np.ones((1, prompts)))[0])
    low, high = ends(mean, prompts, seed=seed) or (value, value)
    least, most = wilson(round(value * n), n)
    return Share(role, measured, value, min(low, least, value), max(high, most, value), n)
