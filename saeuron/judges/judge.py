"""The interface of a judge, and its judgement of an image."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import BadModel, ConfigError, UnknownName


class Detection(NamedTuple):
    """One part of an image that a detecting judge has found."""

    part: str
    """The kind of part, in the detector's own words, such as FACE_FEMALE."""
    score: float
    """The detector's confidence, between 0 and 1."""
    box: tuple[int, int, int, int]
    """Left, top, width, height, in pixels of the image."""


class Judgement(NamedTuple):
    """What a judge says of one image."""

    label: str | None
    """One of the labels that the judge was given; None: no judgement."""
    score: float | None
    """The judge's confidence, between 0 and 1."""
    found: tuple[Detection, ...] = ()
    """Parts that a detecting judge found, whatever its threshold."""


class Judge(Protocol):
    """Recognises one domain in images. Creating a judge is cheap: weights are loaded at its first call.

    A judge may have more than is listed here:
        size: (height, width) of the only images that it reads.
        rest: the label of an image that shows none of the others, for a judge that takes any labels.
        extractor, features: a name by content, and uint8 [B, H, W, 3] -> float32 [B, D], what Frechet distances are of.
        agreement: (images, texts) -> float64 [B], how well images fit texts (CLIP score).
        thresholds: those at which the detections of a detecting judge are counted.
    """

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The fixed set of labels that it knows; None: it can judge by any labels."""

    @property
    def identity(self) -> str:
        """Its id by content, such as a hash of weights and templates: equal ids give equal judgements."""

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """The label that each image shows.

        Args:
            images: uint8 [B, H, W, 3].
            labels: one or more distinct names, all known to the judge.

        Returns:
            One judgement per image, in order.
        """


def named_score(
    name: str, logits: NDArray[np.floating[Any]], known: Sequence[str], labels: Sequence[str]
) -> list[Judgement]:
    """The best of the labels asked for, by a classifier's logits [B, len(known)]; the score is a softmax over them.

    Raises:
        UnknownName: a label is not among `known`.
        BadModel: a logit is not finite.
    """
    place = {label: i for i, label in enumerate(known)}
    for label in labels:
        if label not in place:
            raise UnknownName(f"label of the judge {name!r}", label, known)
    if not np.isfinite(logits).all():
        raise BadModel(f"the model of the judge {name!r} gives scores that are not finite.")
    asked = logits[:, [place[label] for label in labels]].astype(np.float64)
    shares = np.exp(asked - asked.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    best = shares.argmax(1)
    return [Judgement(labels[i], float(row[i])) for i, row in zip(best.tolist(), shares, strict=True)]


def refuse_options(name: str, argument: str, templates: Sequence[str]) -> None:
    """Raise `ConfigError` if a judge that takes neither argument nor templates is given one."""
    if argument:
        raise ConfigError(f"the judge {name!r} takes no argument, got {argument!r}; expected judge: {name}.")
    refuse_templates(name, templates)


def refuse_templates(name: str, templates: Sequence[str]) -> None:
    """Raise `ConfigError` if a judge that uses no sentences is given some."""
    if templates:
        raise ConfigError(f"the judge {name!r} uses no sentences; leave judge_templates out.")
