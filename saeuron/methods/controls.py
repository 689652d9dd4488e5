"""Controls: SAeUron's edit without a trained SAE, or without chosen latents. If one does as well, that was not needed.

    untrained   the dictionary was never trained
    frozen      the encoder was trained, the decoder was not
    random      trained latents, drawn among those that fire on the concept

The method `supervised` (supervised.py) shows what labels achieve without an SAE.
"""

import torch
from torch import Tensor

from saeuron.methods.base import Evidence
from saeuron.methods.saeuron import SAeUron
from saeuron.noise import generator


class Untrained(SAeUron):
    """SAeUron with an SAE of the same configuration that was never trained."""

    name = "untrained"
    dictionary = "untrained"
    like = "saeuron"


class Frozen(SAeUron):
    """SAeUron with an SAE whose decoder stayed as it was drawn."""

    name = "frozen"
    dictionary = "frozen"
    like = "saeuron"


class Random(SAeUron):
    """SAeUron's edit of n latents drawn among those that fire on the concept, whatever their scores."""

    name = "random"
    like = "saeuron"

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """n latents in an order that the concept and the hookpoint seed, bool [T, N]."""
        return random_latents(evidence, hookpoint, n)


def random_latents(evidence: Evidence, hookpoint: str, n: int) -> Tensor:
    """n latents drawn from those that fire on the concept, bool [T, N]. Concept and hookpoint seed the draw."""
    mean = evidence.profiles[hookpoint].mean
    chance = generator(0, "random latents", evidence.concept, hookpoint)
    return drawn(mean > 0, torch.randperm(mean.shape[1], generator=chance, device="cpu"), n)


def drawn(fires: Tensor, order: Tensor, n: int) -> Tensor:
    """The first n latents in `order` that fire at each step, bool [T, N]; all that fire if they are fewer.

    The order is the same for all steps, so that a selected latent stays selected, as a concept's latents mostly do.

    Args:
        fires: bool [T, N].
        order: int64 [N], a permutation.
    """
    ordered = fires[:, order]
    first = ordered & (ordered.cumsum(1) <= n)
    return torch.zeros_like(fires).scatter(1, order.expand_as(fires), first)
