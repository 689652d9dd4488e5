"""Cosines between the rows of a decoder, and with those of another SAE."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeuron.noise import generator

_CHUNK = 2048
"""Rows compared at once: bounds the memory for cosines, [rows, N]."""


class Nearest(NamedTuple):
    """The most similar row, for each row."""

    cosine: Tensor
    """[N]; 0 for a row of norm zero, -1 in a dictionary of one row."""
    latent: Tensor
    """int64 [N]."""


@torch.no_grad()
def nearest(W_dec: Tensor, others: Tensor | None = None) -> Nearest:
    """Largest cosine of each decoder row.

    Args:
        W_dec: (N, D).
        others: (M, D), the decoder of another SAE; None: the other rows of W_dec itself.
    """
    rows = normalize(W_dec.float(), dim=1)
    against = rows if others is None else normalize(others.float(), dim=1)
    cosines, latents = [], []
    for start in range(0, len(rows), _CHUNK):
        found = rows[start : start + _CHUNK] @ against.T
        if others is None:
            at = torch.arange(len(found), device=found.device)
            found[at, at + start] = -1
        best = found.max(1)
        cosines.append(best.values.clamp(-1, 1))
        latents.append(best.indices)
    return Nearest(torch.cat(cosines), torch.cat(latents))


def chance(rows: int, others: int, width: int) -> float:
    """Mean largest cosine between `rows` random directions and `others` more: the chance level of two dictionaries."""
    drawn = torch.randn(rows + others, width, generator=generator("chance", rows, others, width), device="cpu")
    return float(nearest(drawn[:rows], drawn[rows:]).cosine.mean())


@torch.no_grad()
def neighbours(W_dec: Tensor, latent: int, count: int) -> list[tuple[int, float]]:
    """The `count` rows with the largest cosine to one row, without that row: (latent, cosine), nearest first."""
    rows = normalize(W_dec.float(), dim=1)
    cosine = rows @ rows[latent]
    cosine[latent] = -torch.inf
    order = cosine.argsort(descending=True, stable=True)[: min(count, len(rows) - 1)]
    return [(int(i), float(cosine[i])) for i in order]
