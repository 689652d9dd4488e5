"""TopK (2406.04093) and Multi-TopK."""

from typing import ClassVar

import torch
from torch import Tensor

from saeuron.sae.losses import fvu, mean_of_finite
from saeuron.sae.ranks import ALONE, Ranks
from saeuron.sae.selection import Activation, row_floor
from saeuron.sae.sparse import TORCH, Kernels, Pattern
from saeuron.sae.variants.base import Pre, SparseVariant


def row_pattern(pre: Tensor, k: int, latents_of: Ranks = ALONE, kernels: Kernels = TORCH) -> Pattern:
    """The k largest p of each row of [B, N], if positive.

    If ranks hold a part of the latents each: the k largest over all ranks, including ties for the last place.
    """
    values, latents = kernels.row_top_k(pre, min(k, pre.shape[1]))
    rows = torch.arange(len(pre), device=pre.device).repeat_interleave(values.shape[1])
    found = Pattern(rows, latents.flatten(), (pre.shape[0], pre.shape[1]))
    keep = values > 0
    if latents_of.size > 1:
        keep &= values >= row_floor(values, k, latents_of)
    return found.where(keep.flatten())


class TopK(SparseVariant):
    """f = ReLU(p) on the k largest p of each row (equation 2).

    With `topk.multi` the loss is L(k) + multi * L(4k), the paper's Multi-TopK (section 3.3; it uses 1/8), which keeps
    an SAE useful with more latents than it was trained for. The tracked threshold is the mean over rows of the least
    kept p, so that `inference: threshold` keeps about k per row.
    """

    activation: ClassVar[Activation] = "topk"
    by_row: ClassVar[bool] = True

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        return row_pattern(pre, self.config.k, self.latents_of, self.kernels)

    def least(self, pattern: Pattern, values: Tensor) -> Tensor:
        least = values.new_full((pattern.shape[0],), torch.inf).scatter_reduce(0, pattern.rows, values, "amin")
        return mean_of_finite(self.latents_of.least(least))

    def loss(self, x: Tensor, x_hat: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        loss = super().loss(x, x_hat, pattern, values, pre)
        if self.config.topk.multi:
            k = min(4 * self.config.k, self.n_latents * self.latents_of.size)
            more = row_pattern(pre.all.detach(), k, self.latents_of, self.kernels)
            loss = loss + self.config.topk.multi * fvu(x, self.reconstruct(more, pre.at(more)), self.rows_of)
        return loss
