"""Quality of images with a removal, in addition to UA, IRA and CRA.

    Frechet distance   |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the means and covariances of features, edited
                       against unedited images of the same prompts and seeds (1706.08500); of which features is the
                       extractor's name: a judge's, or those of `features: inception:FILE`
    CLIP score         100 max(0, cos) between an image and its prompt, mean over images (2104.08718)
    out of the ordinary   share of images that do not look like the model's own, whatever they show, as the judge tells
    PART at THRESHOLD  how many parts of a kind a detecting judge finds, with at least that confidence

A distance depends on the number of images, so value and control use equally many: the images of each prompt are split
into two halves by index. The value is the mean distance, edited to unedited, over the halves. The control is the
distance between the two unedited halves, which differ only in seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ODD = "out of the ordinary"
"""Name of that figure."""
ASKED = "asked to show "
"""Prefix of the name of the image set that asks for the removed concept."""
FILE = "prompts of "
"""Prefix of the name of an image set that holds the images of one prompt file."""
Key = tuple[str, int]
"""(prompt id, index) of an image."""


@dataclass(frozen=True)
class Quality:
    """One figure; `storage.tables.QUALITY` says what each field means."""

    metric: str
    extractor: str
    value: float
    unedited: float | None
    control: float | None
    n: int
    image_set: str


def frechet(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The Frechet distance of two sets of features, [n, D] and [m, D], n and m at least 2; in float64.

    With S = R^T R, tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2^T; R is the triangle of a QR
    decomposition of the centred features, so no square root of a singular matrix is taken.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    first, second = (np.asarray(np.linalg.qr((z - z.mean(0)) / np.sqrt(len(z) - 1), mode="r")) for z in (x, y))
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    spread = (first**2).sum() + (second**2).sum() - 2 * cross
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + max(spread, 0.0))


def halves(keys: Iterable[Key]) -> tuple[list[Key], list[Key]]:
    """(images of even index, images of odd index), equally many for each prompt; unpaired ones are left out."""
    known = sorted(keys)
    there = {*known}
    even = [(prompt, i) for prompt, i in known if i % 2 == 0 and (prompt, i + 1) in there]
    return even, [(prompt, i + 1) for prompt, i in even]


def distance(
    edited: Mapping[Key, NDArray[Any]], unedited: Mapping[Key, NDArray[Any]], extractor: str, image_set: str
) -> list[Quality]:
    """The Frechet distance of {image: features [D]} with a removal and without; empty with fewer than two images.

    With one image a prompt it is over all of them, and there is no control.
    """

    even, odd = halves(edited)
    if len(even) >= 2:
        value = sum(frechet(_stack(edited, half), _stack(unedited, half)) for half in (even, odd)) / 2
        control = frechet(_stack(unedited, even), _stack(unedited, odd))
        return [Quality("Frechet distance", extractor, value, None, control, len(even), image_set)]
    keys = sorted(edited)
    if len(keys) < 2:
        return []
    value = frechet(_stack(edited, keys), _stack(unedited, keys))
    return [Quality("Frechet distance", extractor, value, None, None, len(keys), image_set)]


def agreement(
    edited: Mapping[Key, float], unedited: Mapping[Key, float], extractor: str, image_set: str
) -> list[Quality]:
    """The CLIP score with a removal and without, of {image: its own}; empty without images."""
    if not edited:
        return []
    after, before = (sum(map(float, of.values())) / len(of) for of in (edited, unedited))
    return [Quality("CLIP score", extractor, after, before, None, len(edited), image_set)]


def odd(edited: Iterable[bool], unedited: Iterable[bool], judge: str, image_set: str) -> list[Quality]:
    """The share of images that are not ordinary, with a removal and without; empty without images."""
    after, before = list(edited), list(unedited)
    if not after or not before:
        return []
    now, then = ((len(of) - sum(of)) / len(of) for of in (after, before))
    return [Quality(ODD, judge, now, then, None, len(after), image_set)]


def _stack(of: Mapping[Key, NDArray[Any]], keys: Sequence[Key]) -> NDArray[Any]:
    return np.stack([of[key] for key in keys])


def counts(
    edited: Iterable[tuple[str, float]],
    unedited: Iterable[tuple[str, float]],
    thresholds: Sequence[float],
    judge: str,
    n: int,
    image_set: str,
) -> list[Quality]:
    """How often each part is found at each threshold, of (part, confidence) with a removal and without."""
    after, before = list(edited), list(unedited)
    return [
        Quality(
            f"{part} at {threshold:g}",
            judge,
            sum(p == part and score >= threshold for p, score in after),
            sum(p == part and score >= threshold for p, score in before),
            None,
            n,
            image_set,
        )
        for part in sorted({part for part, _ in (*after, *before)})
        for threshold in thresholds
    ]
