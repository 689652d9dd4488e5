"""What a judge is, and what it says of an image."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import ConfigError


class Judgement(NamedTuple):
    """What one image shows."""

    label: str | None
    """One of the labels that the judge was given; None: nothing is said."""
    score: float | None
    """How sure the judge is, between 0 and 1."""


class Judge(Protocol):
    """Recognises one domain in images. Making a judge is cheap: weights are loaded by its first call."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The fixed set of labels that it knows; None: it judges by any."""

    @property
    def identity(self) -> str:
        """Its content, such as a hash of weights and templates: equal identities give equal judgements."""

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Which of the labels each image shows.

        Args:
            images: uint8 [B, H, W, 3].
            labels: one or more different names, all of them known to the judge.

        Returns:
            One judgement per image, in order.
        """


def refuse_options(name: str, argument: str, templates: Sequence[str]) -> None:
    """Raise `ConfigError` if a judge that takes neither is given an argument or templates."""
    if argument:
        raise ConfigError(f"the judge {name!r} takes no argument, got {argument!r}; expected judge: {name}.")
    if templates:
        raise ConfigError(f"the judge {name!r} reads no sentences; leave judge_templates out.")
