"""Activation functions of SAEs, and the exact selections behind them.

p are pre-activations, [..., N]; f are activations of the same shape.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from saeuron.sae.ranks import Ranks

Activation = Literal["topk", "threshold", "top_afa"]
"""Activation function at inference. With `threshold` latents are not compared with each other, so any subset can be
computed alone."""

_GROUP = 64


def activate(pre: Tensor, activation: Activation, *, k: int, threshold: Tensor, x_bar: Tensor) -> Tensor:
    """f at inference, [..., N], of p [..., N]; each row depends on itself alone.

    Args:
        pre: p. k: for `topk`. threshold: theta, (N) or a scalar, for `threshold`.
        x_bar: x - b_dec, [..., D]; `top_afa` uses its norm.
    """
    match activation:
        case "topk":
            return top_k(pre, k)
        case "threshold":
            return over_threshold(pre, threshold)
        case "top_afa":
            return pre.relu() * top_afa(pre, x_bar.norm(dim=-1))


def top_k(pre: Tensor, k: int) -> Tensor:
    """f = ReLU(p) on the k largest p of each row (2406.04093, equation 2); [..., N] -> [..., N]."""
    values, indices = row_top_k(pre, k)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def row_top_k(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their indices, both [..., k], in no particular order."""
    found = pre.topk(k, dim=-1, sorted=False)
    return found.values, found.indices


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions of the `count` largest positive values of [B, N], with ties at the boundary: (rows, columns), int64.

    Exact, in two stages. The count-th largest of the maxima of groups is a lower bound of the count-th largest value,
    so only groups whose maximum reaches it can hold any of them.
    """
    width = values.shape[1]
    if count >= values.numel() or width % _GROUP or count * _GROUP >= values.numel():
        least = kth_largest(values, count) if count < values.numel() else 0
        rows, columns = ((values >= least) & (values > 0)).nonzero(as_tuple=True)
        return rows, columns
    groups = values.reshape(-1, _GROUP)
    maxima = groups.amax(1)
    reached = (maxima >= kth_largest(maxima, count)).nonzero().squeeze(1)
    candidates = groups[reached]
    keep = (candidates >= kth_largest(candidates, count)) & (candidates > 0)
    group, within = keep.nonzero(as_tuple=True)
    flat = reached[group] * _GROUP + within
    return flat // width, flat % width


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of all values, a scalar of their dtype."""
    flat = values.flatten()
    if flat.device.type == "cpu" and flat.dtype == torch.float32:
        # numpy's quickselect is vectorised; torch.topk sorts (value, index) pairs and is ten times slower here.
        return flat.new_tensor(np.partition(flat.numpy(), len(flat) - k)[len(flat) - k])
    return flat.topk(k, sorted=False).values.min()


def row_floor(values: Tensor, k: int, ranks: Ranks) -> Tensor:
    """k-th largest of each row when each rank holds a part of the latents, [B, 1]; 0 if fewer than k are positive.

    Args:
        values: [B, M], every candidate of this rank: its k largest, or all if it has fewer.
    """
    room = values.new_zeros(len(values), k)
    room[:, : values.shape[1]] = values.relu()
    return ranks.gather(room, 1).topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)


def floor(values: Tensor, count: int, ranks: Ranks) -> Tensor:
    """count-th largest positive value over all ranks, a scalar; 0 if there are fewer.

    Args:
        values: [M], every candidate of this rank: its `count` largest, ties included, or all if it has fewer.
    """
    room = values.new_zeros(count)
    largest_first = values.sort(descending=True).values[:count]
    room[: len(largest_first)] = largest_first
    return kth_largest(ranks.gather(room, 0), count)


def over_threshold(pre: Tensor, threshold: Tensor | float) -> Tensor:
    """f = ReLU(p) where p > theta, else 0."""
    return pre.relu() * (pre > threshold)


def top_afa(pre: Tensor, norm: Tensor) -> Tensor:
    """Latents that top-AFA keeps, bool [..., N] (2503.24277).

    Latents are ranked by c_i = (ReLU(p_i) |w_i|)^2, with unit rows w_i. The prefix whose root sum is closest to |x_bar|
    is kept: if the rows were orthogonal, the decoded vector would have the norm of the input.

    Args:
        pre: p, [..., N]. norm: |x_bar|, [...].
    """
    ranked = pre.relu().square().sort(dim=-1, descending=True, stable=True)
    distance = (ranked.values.cumsum(-1).sqrt() - norm.unsqueeze(-1)).abs()
    # The empty prefix is |x_bar| away. Of equal distances argmin takes the first, that is the smallest prefix.
    distance = torch.cat([norm.unsqueeze(-1), distance], dim=-1)
    count = distance.argmin(-1, keepdim=True)
    keep = torch.arange(pre.shape[-1], device=pre.device) < count
    return torch.zeros_like(keep).scatter(-1, ranked.indices, keep.expand_as(ranked.indices)) & (pre > 0)
