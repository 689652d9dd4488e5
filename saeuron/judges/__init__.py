"""Judges: who says what an image shows. A domain without a judge has null metrics, never a guess."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from saeuron.errors import UnknownName

Judge = Callable[[NDArray[np.uint8]], list[str | None]]
"""uint8 [B, H, W, 3] -> one label per image."""

KNOWN = ("canvas", "none")


def check(name: str) -> None:
    """Raise `UnknownName` unless there is such a judge; loads nothing."""
    if name not in KNOWN:
        raise UnknownName("judge", name, KNOWN)


def labels(name: str, domain: str) -> tuple[str, ...] | None:
    """What a judge can say of a domain; None: anything, or nothing. Loads nothing.

    Raises:
        UnknownName: there is no such judge, or it does not know the domain.
    """
    check(name)
    if name == "none":
        return None
    from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES

    known = {"object": OBJECTS, "style": STYLE_CLASSES}
    if domain not in known:
        raise UnknownName("domain of the canvas judge", domain, known, "Use judge: none for other domains.")
    return known[domain]


class CanvasJudge:
    """The canvas classifier's head for `object` or `style`."""

    def __init__(self, domain: str) -> None:
        from saeuron.canvas.classifier import load_classifier

        self.labels = labels("canvas", domain) or ()
        self.head = ("object", "style").index(domain)
        self.model = load_classifier()

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> list[str | None]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return [self.labels[i] for i in self.model(x)[self.head].argmax(1).tolist()]


def identity(names: Mapping[str, str]) -> str:
    """What the judges of {domain: name} are, by content: other weights are another judge, under the same name."""
    if "canvas" not in names.values():
        return "none"
    from saeuron.canvas.classifier import FILE

    return f"canvas-{hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]}"


def judges(names: Mapping[str, str]) -> dict[str, Judge]:
    """{domain: judge} for {domain: name of a judge}; domains whose judge is `none` are left out."""
    for name in names.values():
        check(name)
    return {domain: CanvasJudge(domain) for domain, name in names.items() if name != "none"}


def judge(
    chosen: Mapping[str, Judge], domains: Sequence[str], images: NDArray[np.uint8]
) -> list[dict[str, str | None]]:
    """What each image shows, {domain: label}; None where the domain has no judge."""
    seen = {domain: chosen[domain](images) if domain in chosen else [None] * len(images) for domain in domains}
    return [{domain: seen[domain][i] for domain in domains} for i in range(len(images))]
