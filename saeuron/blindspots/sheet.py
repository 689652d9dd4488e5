"""The picture of a comparison: real pictures beside generated ones of the same prompts, and nearest pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saeuron.pages.grid import grid
from saeuron.pages.pictures import Picture

ACROSS, LATENTS, PAIRS = 8, 3, 8
"""Pictures in a row; latents of either verdict that are shown; nearest pairs."""


def most(strength: np.ndarray, count: int = ACROSS) -> list[int]:
    """The pictures in which a latent is strongest, of its strengths [n]; the strongest first."""
    return [int(i) for i in np.argsort(-strength, kind="stable")[:count]]


BLANK = [""] * ACROSS
"""The names of columns: none."""
Band = tuple[str, Sequence[str], Sequence[tuple[str, Sequence[Picture]]]]


def latent_band(
    heading: str,
    real: Sequence[Picture],
    generated: Sequence[Picture],
    mine: np.ndarray,
    theirs: np.ndarray,
    paired: bool,
    by_real: bool,
) -> Band:
    """Pictures in which one latent is strongest on one side, above those of the same prompts on the other side.

    Args:
        mine, theirs: its strength in real and in generated pictures, [n] and [m].
        paired: picture i of either side is of one prompt; otherwise the strongest of either are shown.
        by_real: whether the real side chooses.
    """
    first, second = most(mine), most(theirs)
    if paired:
        first = second = first if by_real else second
    return (heading, BLANK, [("real", [real[i] for i in first]), ("generated", [generated[i] for i in second])])


def sheet(bands: Sequence[Band], title: str, path: Path) -> Path:
    """Draw the bands; returns `path`."""
    return grid(bands, title, path, 72)
