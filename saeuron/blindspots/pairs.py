"""How far generated pictures are from real ones by their latents: those that are copies.

    E(a, b) = min over shifts of a by at most a pixel of |xi(a) - xi(b)|^2        a copy has almost none

Shifts are tried because a copy that is moved by one pixel has another texture to a network of small steps: of canvas's
styles on a grid, it has more energy than a new picture (docs/log.md).

A generated picture counts as a copy if some real picture is nearer to it than other real pictures of the same prompts
are: below the 1 % quantile of their energies to the nearest. Where there are no others, it is nearer than real pictures
are to each other, and far below the energies of the other generated pictures too (Tukey's outer fence, on a log scale):
a caption alone brings a picture near to its own. So of a model that copies more than a quarter, some are missed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
QUANTILE = 0.01
_CHUNK = 256
"""Pictures compared at once."""


class Nearest(NamedTuple):
    """The nearest of some pictures, for each of n."""

    energy: Numbers
    place: NDArray[np.int64]


def shifts(pictures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Pictures [n, H, W, 3] as they are, and moved by a pixel left, right, up and down; edges are repeated."""
    wide = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = pictures.shape[1:3]
    places = ((1, 1), (1, 2), (1, 0), (2, 1), (0, 1))
    return [wide[:, top : top + height, left : left + width] for top, left in places]


def energies(a: Sequence[Numbers], b: Numbers) -> Numbers:
    """E of picture i of either, [n]; of xi of the first at each shift, [n, N] each, and of the second, [n, N]."""
    found: Numbers = np.min([((moved - b) ** 2).sum(1) for moved in a], axis=0)
    return found


def nearest(of: Sequence[Numbers], among: Numbers, other: bool = False) -> Nearest:
    """The picture of `among` with the least E to each of `of`, the first of equal ones.

    Args:
        of: xi at each shift, [n, N] each. among: xi, [m, N].
        other: both are the same pictures, and none is near to itself.

    Raises:
        ValueError: there is nothing to be near to.
    """
    if len(among) < 1 + other:
        raise ValueError(f"{len(among)} pictures to be near to; expected at least {1 + other}")
    found: Nearest | None = None
    for moved in of:
        one = _nearest(moved, among, other)
        if found is None:
            found = one
        closer = one.energy < found.energy
        found = Nearest(np.where(closer, one.energy, found.energy), np.where(closer, one.place, found.place))
    if found is None:
        raise ValueError("no shift to be near at")
    return found


def _nearest(of: Numbers, among: Numbers, other: bool) -> Nearest:
    energy, place = [], []
    sizes = (among**2).sum(1)
    for start in range(0, len(of), _CHUNK):
        part = of[start : start + _CHUNK]
        # As |a|^2 - 2 ab + |b|^2 to find it, and by the difference itself for its value, which may be near 0.
        every = (part**2).sum(1)[:, None] - 2 * part @ among.T + sizes
        if other:
            every[np.arange(len(part)), start + np.arange(len(part))] = np.inf
        at = every.argmin(1)
        place.append(at)
        energy.append(((part - among[at]) ** 2).sum(1))
    return Nearest(np.concatenate(energy), np.concatenate(place).astype(np.int64))


def copied_below(real: Numbers, generated: Sequence[Numbers], fresh: Sequence[Numbers] | None = None) -> float:
    """The energy below which a generated picture counts as a copy of a real one; 0: too few real pictures differ.

    Args:
        real: xi of real pictures, [n, N]. generated: of generated ones at each shift, [m, N] each.
        fresh: of other real pictures of the same prompts at each shift; None: there are none.
    """
    if fresh is not None:
        return float(np.quantile(nearest(fresh, real).energy, QUANTILE))
    if len(real) < 2:
        return 0.0
    found = nearest([real], real, other=True).energy
    # What is there twice says nothing of how near different pictures are.
    different = found[found > 1e-12 * max(float((real**2).sum(1).mean()), 1e-300)]
    return (
        min(float(np.quantile(different, QUANTILE)), _fence(nearest(generated, real).energy)) if len(different) else 0.0
    )


def _fence(energy: Numbers) -> float:
    """The lower outer fence of log energies."""
    first, third = np.quantile(np.log(np.maximum(energy, 1e-300)), (0.25, 0.75))
    return float(np.exp(first - 3 * (third - first)))
