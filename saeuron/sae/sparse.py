"""Products with sparse codes, for training sparse autoencoders.

A pattern lists the active (row, latent) pairs, M in all. Encoding at those pairs and decoding from them are weighted
sums over bags of rows of a matrix, forward and backward, 2 M D FLOP each. So a step costs about 2 B D N FLOP, the
encoder's one dense product; plain autograd through dense latents costs 10 to 12 B D N.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saeuron.sae.selection import row_top_k


@dataclass(frozen=True, eq=False)
class Pattern:
    """Active pairs (row, latent) of [B, N], sorted by row."""

    rows: Tensor
    """int64 [M], ascending."""
    latents: Tensor
    """int64 or int32 [M]."""
    shape: tuple[int, int]
    """(B, N)."""

    @functools.cached_property
    def row_starts(self) -> Tensor:
        """Index at which each row's pairs begin, int64 [B]."""
        return _starts(self.rows, self.shape[0])

    @functools.cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The order that sorts the pairs by latent, int64 [M], and where each latent begins in it, int64 [N]."""
        # int32 halves the bytes to sort.
        order = self.latents.int().argsort(stable=True)
        return order, _starts(self.latents[order], self.shape[1])

    def dense(self, values: Tensor) -> Tensor:
        """Values [M] scattered to [B, N]; differentiable."""
        return values.new_zeros(self.shape).index_put((self.rows, self.latents), values)

    def any(self) -> Tensor:
        """Latents that are active in any row, bool [N]."""
        found = torch.zeros(self.shape[1], dtype=torch.bool, device=self.latents.device)
        found[self.latents] = True
        return found

    def where(self, keep: Tensor) -> "Pattern":
        """The pairs that `keep`, bool [M], selects."""
        return Pattern(self.rows[keep], self.latents[keep], self.shape)


def _starts(ascending: Tensor, count: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(count, device=ascending.device))


def _bags(table: Tensor, indices: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(indices, table, starts, mode="sum", per_sample_weights=weights)


def _dots(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    # embedding_bag uses this operator for the gradient of its weights. No other operator avoids both gathering M rows
    # of D numbers and the dense product.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, pattern.latents, pattern.row_starts, pattern.rows, 0
    )


class Room:
    """Memory for p of a batch on a CPU, reused between steps: fresh pages cost as much as the selection."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def of(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """[rows, columns] of the dtype and device of `like`, content undefined; reuses the memory if it fits."""
        kept = self._memory
        if kept.numel() < rows * columns or (kept.dtype, kept.device) != (like.dtype, like.device):
            kept = self._memory = like.new_empty(rows * columns)
        return kept[: rows * columns].view(rows, columns)


class Kernels(NamedTuple):
    """An implementation of the sparse work; all implementations agree up to rounding."""

    bags: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Weighted sums of rows of a table [T, D], one per start, [S, D]; of indices [M], starts [S], weights [M]."""
    dots: Callable[[Pattern, Tensor, Tensor], Tensor]
    """left[row] . right[latent] for every pair of a pattern, [M]; left is [B, D], right (N, D)."""
    row_top_k: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    """The k largest positive p of each row of [B, N] and their indices, both [B, k]; entries that fill up a row are not
    positive."""
    reads_half: bool = False
    """Whether tables and p may be bfloat16."""


TORCH = Kernels(_bags, _dots, row_top_k)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_bar: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        pattern: Pattern,
        pre: Tensor,
        kernels: Kernels,
    ) -> Tensor:
        del b_enc, b_dec
        ctx.save_for_backward(x_bar, W_enc)
        ctx.pattern, ctx.kernels = pattern, kernels
        return pre.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_bar, W_enc = ctx.saved_tensors
        gradient = gradient.contiguous()
        order, starts = ctx.pattern.by_latent
        sorted_gradient = gradient[order]
        to_W = ctx.kernels.bags(x_bar, ctx.pattern.rows[order], starts, sorted_gradient)
        to_b = ctx.kernels.bags(gradient[:, None], order, starts, torch.ones_like(gradient)).squeeze(1)
        # x_bar = x - b_dec: b_dec needs its gradient summed over rows only, a vector times W_enc.
        return None, to_W, to_b, -(to_b @ W_enc), None, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, table: Tensor, pattern: Pattern, kernels: Kernels) -> Tensor:
        del W_dec
        ctx.save_for_backward(values, table)
        ctx.pattern, ctx.kernels = pattern, kernels
        return kernels.bags(table, pattern.latents, pattern.row_starts, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, table = ctx.saved_tensors
        pattern, kernels = ctx.pattern, ctx.kernels
        order, starts = pattern.by_latent
        gradient = gradient.contiguous()
        to_W = kernels.bags(gradient, pattern.rows[order], starts, values[order]) if ctx.needs_input_grad[1] else None
        return kernels.dots(pattern, gradient, table), to_W, None, None, None


def encode_at(
    pattern: Pattern,
    x_bar: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    b_dec: Tensor,
    pre: Tensor,
    kernels: Kernels = TORCH,
) -> Tensor:
    """p at the pairs of a pattern, [M]; differentiable in W_enc, b_enc and b_dec.

    Args:
        x_bar: x - b_dec, [B, D], detached; its dependence on b_dec is accounted for.
        W_enc: (N, D). b_enc: (N). b_dec: (D).
        pre: the values of p at the pairs, [M], already computed.
    """
    found: Tensor = _Encode.apply(x_bar, W_enc, b_enc, b_dec, pattern, pre, kernels)
    return found


def decode(
    pattern: Pattern, values: Tensor, W_dec: Tensor, table: Tensor | None = None, kernels: Kernels = TORCH
) -> Tensor:
    """f W_dec, [B, D], of values [M] at the pairs of a pattern; differentiable in both.

    `table` is read in place of W_dec, if given: the same numbers in another precision.
    """
    found: Tensor = _Decode.apply(values, W_dec, W_dec if table is None else table, pattern, kernels)
    return found
