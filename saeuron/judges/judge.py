"""The interface of a judge, and its judgement of an image."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import ConfigError


class Judgement(NamedTuple):
    """What one image shows."""

    label: str | None
    """One of the labels that the judge was given; None: no judgement."""
    score: float | None
    """The judge's confidence, between 0 and 1."""


class Judge(Protocol):
    """Recognises one domain in images. Creating a judge is cheap: weights are loaded at its first call."""

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


def refuse_options(name: str, argument: str, templates: Sequence[str]) -> None:
    """Raise `ConfigError` if a judge that takes neither argument nor templates is given one."""
    if argument:
        raise ConfigError(f"the judge {name!r} takes no argument, got {argument!r}; expected judge: {name}.")
    if templates:
        raise ConfigError(f"the judge {name!r} uses no sentences; leave judge_templates out.")
