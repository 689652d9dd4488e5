"""TopK (2406.04093) and Multi-TopK."""

from typing import ClassVar

import torch
from torch import Tensor

from saeuron.losses import fvu
from saeuron.selection import Activation, row_top_k
from saeuron.sparse import Pattern
from saeuron.variants.base import Pre, SparseVariant


def row_pattern(pre: Tensor, k: int) -> Pattern:
    """The k largest p of each row of [B, N], those that are positive."""
    values, latents = row_top_k(pre, k)
    rows = torch.arange(len(pre), device=pre.device).repeat_interleave(k)
    found = Pattern(rows, latents.flatten(), (pre.shape[0], pre.shape[1]))
    return found.where(values.flatten() > 0)


class TopK(SparseVariant):
    """F = ReLU(p) on the k largest p of each row (equation 2).

    With `topk.multi` the loss is L(k) + multi * L(4k), the paper's Multi-TopK (section 3.3; it uses 1/8), which keeps
    an SAE useful at more latents than it was trained for. The threshold that is followed is the mean over rows of the
    least kept p, so that `inference: threshold` keeps about k a row.
    """

    activation: ClassVar[Activation] = "topk"

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        return row_pattern(pre, self.config.k)

    def least(self, pattern: Pattern, values: Tensor) -> Tensor:
        least = values.new_full((pattern.shape[0],), torch.inf).scatter_reduce(0, pattern.rows, values, "amin")
        least = least[torch.isfinite(least)]
        return least.mean() if len(least) else least.new_tensor(torch.inf)

    def loss(self, x: Tensor, x_hat: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        loss = super().loss(x, x_hat, pattern, values, pre)
        if self.config.topk.multi:
            more = row_pattern(pre.all.detach(), min(4 * self.config.k, self.n_latents))
            loss = loss + self.config.topk.multi * fvu(x, self.reconstruct(more, pre.at(more)))
        return loss
