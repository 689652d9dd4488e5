"""Features that Frechet distances are of, by name: `features` in a configuration.

inception.py  the Inception network of published distances, from a local file of weights
network.py    that network

`features: NAME:ARGUMENT` is `inception:FILE`, or a judge that has features of its own, such as `clip:MODEL`. Without
it, the features are those of the concept's judge.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saeuron import judges
from saeuron.errors import ConfigError, UnknownName
from saeuron.extractors.inception import Inception

INCEPTION = "inception"


class Extractor(Protocol):
    """A network whose features give a Frechet distance."""

    @property
    def extractor(self) -> str:
        """Its name by content: weights, layer and preprocessing."""

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [B, H, W, 3] -> float32 [B, D]."""


def create(spec: str, device: str = "cpu") -> Extractor:
    """The extractor that a specification names; its weights are loaded when they are first used.

    Raises:
        UnknownName, ConfigError, BadModel: there is none of this name, its argument is bad, or it has no features.
    """
    name, _, argument = spec.partition(":")
    if name == INCEPTION:
        return Inception(argument, device)
    known = {INCEPTION, *judges.names()}
    if name not in known:
        raise UnknownName("extractor of features", name, known)
    # A judge that is only asked for features needs no domain; one that does says so.
    who: Any = judges.create(spec, "object", device=device)
    if not hasattr(who, "features"):
        raise ConfigError(f"features: the judge {name!r} has no features; expected inception:FILE or clip:MODEL.")
    found: Extractor = who
    return found
