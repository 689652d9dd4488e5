"""The judge `none`: it judges nothing, and the figures of its domain are null."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saeuron.judges.judge import Judgement, refuse_options


class NoJudge:
    """Gives no label and no score, whatever the image."""

    labels = None
    identity = "none"

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        refuse_options("none", argument, templates)
        del domain, device

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """One empty judgement per image."""
        del labels
        return [Judgement(None, None)] * len(images)
