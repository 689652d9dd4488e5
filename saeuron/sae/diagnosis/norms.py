"""Whether activations are as long as what they stand for: |f| against |x - b_dec|, by the number of active latents.

Where the directions of the latents that fire on a row are orthogonal, |f| = |x_hat - b_dec| (f_i in units of its
decoder row's length); with a good reconstruction also |f| = |x - b_dec|. With random directions in R^D,
|x_hat - b_dec|^2 is |f|^2 (1 +- s), s^2 = 2 (1 - sum f_i^4 / |f|^4) / D, because two of them have a cosine of variance
1 / D. More than that is directions that lean on one another, or activations that are too small or too large. After the
norm check of top-AFA (2503.24277); the spread for random directions is this project's.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from saeuron.sae.autoencoder import SAE


class Norm(NamedTuple):
    """Means over the rows on which so many latents fire."""

    latents: int
    """m."""
    rows: int
    expected: float
    """|x - b_dec|."""
    found: float
    """|f|."""
    rebuilt: float
    """|x_hat - b_dec|."""
    spread: float
    """Expected distance of |f| / |x_hat - b_dec| from 1 with random directions: s / 2."""


class Norms:
    """Sums by number of active latents; float64, in the order of the batches."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.lengths = sae, sae.W_dec.detach().float().norm(dim=1)
        self._sums = torch.zeros(0, 5, dtype=torch.float64)
        """[1 + m, 5]: rows, |x - b_dec|, |f|, |x_hat - b_dec|, s."""

    @torch.no_grad()
    def add(self, x: Tensor, f: Tensor, x_hat: Tensor) -> None:
        """Add rows x [..., D] with activations f [..., N] and reconstructions x_hat."""
        g = (f * self.lengths.to(f)).flatten(0, -2)
        active = (g != 0).sum(1)
        length = g.norm(dim=1)
        fourth = g.square().square().sum(1) / length.square().square().clamp(min=1e-30)
        spread = (2 * (1 - fourth).clamp(min=0) / x.shape[-1]).sqrt()
        b_dec = self.sae.b_dec
        sizes = [(rows - b_dec).flatten(0, -2).norm(dim=1) for rows in (x, x_hat)]
        columns = torch.stack([torch.ones_like(length), sizes[0], length, sizes[1], spread], 1).double()
        found = torch.zeros(int(active.max()) + 1, 5, dtype=torch.float64, device=columns.device)
        found = found.index_add(0, active, columns).cpu()
        size = max(len(found), len(self._sums))
        self._sums = _grown(self._sums, size) + _grown(found, size)

    def by_latents(self) -> list[Norm]:
        """Means for every number of active latents that rows have, ascending."""
        result = []
        for latents, (rows, *sums) in enumerate(self._sums.tolist()):
            if rows:
                expected, found, rebuilt, spread = (total / rows for total in sums)
                result.append(Norm(latents, int(rows), expected, found, rebuilt, spread / 2))
        return result


def grouped(norms: list[Norm], most: int = 12) -> list[tuple[str, Norm]]:
    """At most `most` groups of neighbouring numbers of latents, of about equal rows: (`3`, or `3 to 5`, means)."""
    total, result, group, seen = sum(n.rows for n in norms), list[tuple[str, Norm]](), list[Norm](), 0
    for norm in norms:
        group.append(norm)
        seen += norm.rows
        if len(norms) <= most or seen * most >= total * (len(result) + 1) or norm is norms[-1]:
            rows = sum(n.rows for n in group)
            means = [sum(n.rows * value for n, value in zip(group, of, strict=True)) / rows for of in _fields(group)]
            first, last = group[0].latents, group[-1].latents
            result.append((str(first) if first == last else f"{first} to {last}", Norm(first, rows, *means)))
            group = []
    return result


def _fields(group: list[Norm]) -> list[list[float]]:
    return [[getattr(n, name) for n in group] for name in Norm._fields[2:]]


def _grown(sums: Tensor, size: int) -> Tensor:
    return torch.cat([sums, sums.new_zeros(size - len(sums), 5)])
