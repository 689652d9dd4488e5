"""Gradient pursuit: sparse codes found by search instead of an encoder.

Blumensath & Davies 2008, "Gradient Pursuits", IEEE Transactions on Signal Processing 56(6), algorithm 1, with the
direction of the gradient (section III-B). With a residual r, a dictionary of unit rows and a support that grows by one:

    g = W r;   support += argmax g;   d = g on the support;   a = <r, d W> / |d W|^2;   f += a d;   r = x - f W

The codes of most SAEs are not negative. For these, g (not |g|) chooses, and codes are clipped at zero after each step;
a code at zero can only increase.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_CHUNK = 2048
"""Rows searched at once: bounds the memory for g, [rows, N]."""


@torch.no_grad()
def gradient_pursuit(x: Tensor, dictionary: Tensor, counts: Tensor, *, nonnegative: bool = True) -> Tensor:
    """Sparse codes f, [B, N], with x close to f W; row b has at most counts[b] nonzero codes.

    A step may choose a latent that is already in the support, so a row may use fewer latents than its steps.
    Args:
        x: [B, D], without b_dec.
        dictionary: W, (N, D); rows of any norm. Rows of norm zero are never chosen.
        counts: steps of each row, int64 [B].
        nonnegative: whether codes must be >= 0.
    """
    norms = dictionary.norm(dim=1)
    unit = dictionary / norms.clamp(min=1e-12).unsqueeze(1)
    parts = [
        _pursue(rows, unit, steps, nonnegative)
        for rows, steps in zip(x.split(_CHUNK), counts.to(x.device).split(_CHUNK), strict=True)
    ]
    codes = torch.cat(parts) if parts else x.new_zeros(0, len(dictionary))
    return codes / norms.clamp(min=1e-12)


def _pursue(x: Tensor, unit: Tensor, counts: Tensor, nonnegative: bool) -> Tensor:
    """The codes of one chunk for unit rows."""
    most = int(counts.max()) if len(counts) else 0
    shape = (len(x), max(most, 1))
    support = torch.zeros(shape, dtype=torch.int64, device=x.device)
    used = torch.zeros(shape, dtype=torch.bool, device=x.device)
    values = x.new_zeros(shape)
    residual = x.clone()
    for step in range(most):
        g = residual @ unit.T
        best, chosen = (g if nonnegative else g.abs()).max(dim=1)
        again = (used & (support == chosen.unsqueeze(1))).any(1)
        support[:, step] = chosen
        used[:, step] = (counts > step) & ~again & (best > 0)
        d = g.gather(1, support) * (used & (counts > step).unsqueeze(1))
        if nonnegative:
            d = torch.where((values > 0) | (d > 0), d, 0.0)
        towards = _decode(d, support, unit)
        length = (towards * residual).sum(1) / towards.square().sum(1).clamp(min=1e-30)
        values = values + length.unsqueeze(1) * d
        if nonnegative:
            values = values.clamp(min=0)
        residual = x - _decode(values, support, unit)
    # Unused slots have latent 0 and value 0: they add nothing.
    return x.new_zeros(len(x), len(unit)).scatter_add(1, support, values)


def _decode(values: Tensor, support: Tensor, unit: Tensor) -> Tensor:
    """Sums of weighted rows, [B, D], without gathering [B, k, D]."""
    return embedding_bag(support, unit, mode="sum", per_sample_weights=values)
