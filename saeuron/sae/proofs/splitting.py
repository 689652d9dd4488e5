"""Tests 4 and 5 of an SAE: which latents name a concept, alone and together.

    latent i fires on the images where A_i > SHARE * (its largest A_i on the images that things are chosen on)

A is `rows.strengths`; the same rule as in `saeuron/sae/diagnosis/explanations.py`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.3
UNION = 10
"""Latents in a union, at most."""
PRECISE, PART, FEWEST = 0.9, 0.5, 3
"""A part of a concept: precision of at least PRECISE and recall of at most PART, on at least FEWEST images."""


class Fires(NamedTuple):
    """Where latents fire, on images to choose on and on new ones, with what these images show."""

    chosen: Tensor
    """bool [n, N]."""
    judged: Tensor
    """bool [m, N]."""
    chosen_shows: Mapping[str, Tensor]
    """{concept: bool [n]}."""
    judged_shows: Mapping[str, Tensor]
    """{concept: bool [m]}."""


class Names(NamedTuple):
    """How latents name one concept, on new images."""

    f1: float
    """F1 of the latent that is best on the images to choose on."""
    union: float
    """The best F1 of a union of up to `UNION` latents."""
    n90: int
    """Latents in the smallest union with at least 90 % of that; 0: none names the concept."""
    split: int
    """Latents that are a part of the concept."""


def fires(chosen: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """Whether latents fire, from A of [n, N] and [m, N] images; thresholds are those of the first."""
    theta = SHARE * chosen.amax(0).clamp(min=0)
    return chosen > theta, judged > theta


def f1(named: Tensor, shows: Tensor) -> Tensor:
    """F1 of bool [n, N] against bool [n], float64 [N]; 0 where nothing is named and nothing shown."""
    truth = shows.double()
    hits = truth @ named.double()
    return 2 * hits / (named.sum(0) + truth.sum()).clamp(min=1)


def count(found: Fires, least: float = 0.6) -> int:
    """Latents whose F1 on new images is at least `least`, for the concept that was chosen for them."""
    names = sorted(found.chosen_shows)
    best = torch.stack([f1(found.chosen, found.chosen_shows[name]) for name in names]).max(0)
    new = torch.stack([f1(found.judged, found.judged_shows[name]) for name in names])
    return int(((new.gather(0, best.indices[None])[0] >= least) & (best.values > 0)).sum())


def names(found: Fires, concept: str) -> Names:
    """How latents name a concept: one, a union that is grown for as long as F1 rises, and parts of it."""
    chosen, judged = found.chosen_shows[concept], found.judged_shows[concept]
    taken: list[int] = []
    before, fired = 0.0, torch.zeros(len(chosen), dtype=torch.bool)
    for _ in range(min(UNION, found.chosen.shape[1])):
        value = f1(fired[:, None] | found.chosen, chosen)
        at = int(value.argmax())
        if float(value[at]) <= before:
            break
        before, fired = float(value[at]), fired | found.chosen[:, at]
        taken.append(at)
    curve = [float(f1(found.judged[:, taken[: i + 1]].any(1)[:, None], judged)[0]) for i in range(len(taken))]
    best = max(curve, default=0.0)
    n90 = next((i + 1 for i, value in enumerate(curve) if value >= 0.9 * best), 0) if best else 0
    return Names(curve[0] if curve else 0.0, best, n90, split(found.judged, judged))


def split(named: Tensor, shows: Tensor) -> int:
    """Latents, bool [m, N], that are a part of what is shown, bool [m]: precise, and on half of its images at most."""
    hits, fired = shows.double() @ named.double(), named.sum(0)
    precision, recall = hits / fired.clamp(min=1), hits / max(int(shows.sum()), 1)
    return int(((precision >= PRECISE) & (recall <= PART) & (fired >= FEWEST)).sum())


def of(chosen: Tensor, chosen_asked: Sequence[str | None], judged: Tensor, judged_asked: Sequence[str | None]) -> Fires:
    """Where latents fire, from A and what images ask for in one domain."""
    known = sorted({a for a in chosen_asked if a} & {a for a in judged_asked if a})
    first, second = fires(chosen, judged)

    def shows(asked: Sequence[str | None]) -> dict[str, Tensor]:
        return {name: torch.tensor([a == name for a in asked]) for name in known}

    return Fires(first, second, shows(chosen_asked), shows(judged_asked))
