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
Side = tuple[str, Sequence[Picture], np.ndarray]
"""What one side is called, its pictures, and the strength of one latent in each."""


def latent_band(heading: str, first: Side, second: Side, paired: bool, by_first: bool) -> Band:
    """Pictures in which a latent is strongest on one side, above those of the same prompts on the other side.

    Args:
        paired: picture i of either side is of one prompt; otherwise the strongest of either are shown.
        by_first: whether the first side chooses.
    """
    places = [most(strength) for _, _, strength in (first, second)]
    if paired:
        places = [places[0 if by_first else 1]] * 2
    rows = [(name, [of[i] for i in at]) for (name, of, _), at in zip((first, second), places, strict=True)]
    return (heading, BLANK, rows)


def sheet(bands: Sequence[Band], title: str, path: Path) -> Path:
    """Draw the bands; returns `path`."""
    return grid(bands, title, path, 72)
