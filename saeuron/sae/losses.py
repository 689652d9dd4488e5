"""Loss terms of SAE training, and formulas that variants share."""

import torch
from torch import Tensor

from saeuron.sae.ranks import ALONE, Ranks
from saeuron.sae.selection import row_floor


def variance(x: Tensor, rows_of: Ranks = ALONE) -> Tensor:
    """|x - mean x|^2 summed over a batch [B, D], scalar; at least 1e-12.

    `rows_of` are the processes that each hold a slice of the batch. The result is the whole batch's sum divided by
    their number: the mean over processes of (their error / variance) is then the same as with one process.
    """
    mean = x.mean(0)
    rows_of.average([mean])
    # x.var(0) takes eight times as long.
    found = squared(x - mean)
    rows_of.average([found])
    return found.clamp(min=1e-12)


def squared(error: Tensor) -> Tensor:
    """|error|^2 summed over a batch [B, D], scalar; allocates no second tensor of that size."""
    return error.flatten().dot(error.flatten())


def fvu(x: Tensor, x_hat: Tensor, rows_of: Ranks = ALONE) -> Tensor:
    """Fraction of variance unexplained of a batch: |x - x_hat|^2 / |x - mean x|^2, scalar; see `variance`."""
    return squared(x - x_hat) / variance(x, rows_of)


def mean_of_finite(values: Tensor) -> Tensor:
    """Mean of the finite entries of [B], scalar; infinite if there are none."""
    finite = values[torch.isfinite(values)]
    return finite.mean() if len(finite) else values.new_tensor(torch.inf)


def aux_k(
    x: Tensor, x_hat: Tensor, pre: Tensor, W_dec: Tensor, latents_of: Ranks = ALONE, rows_of: Ranks = ALONE
) -> Tensor:
    """AuxK (2406.04093, A.2): dead latents predict the residual; scalar, without its weight alpha.

    e_hat = (the k_aux largest dead ReLU(p)) W_dec, without b_dec; the target e = x - x_hat is detached; scaled by
    min(1, #dead / k_aux) and divided by the variance of x.

    Args:
        x, x_hat: [B, D].
        pre: p of the dead latents alone, [B, #dead]. W_dec: their rows, (#dead, D).
        latents_of: the processes that each hold a part of the latents. rows_of: those that each hold a slice of rows.
    """
    here, wanted = pre.shape[1], max(1, x.shape[1] // 2)
    count = latents_of.count(here)
    if count == 0:
        return x.new_zeros(())
    if count > wanted:
        values, indices = pre.topk(min(wanted, here), dim=1)
        kept = values.relu()
        if latents_of.size > 1:
            kept = kept * (values >= row_floor(values.detach(), wanted, latents_of))
        latents = torch.zeros_like(pre).scatter(1, indices, kept)
    else:
        latents = pre.relu()
    error = (x - x_hat).detach()
    return min(1.0, count / wanted) * squared(error - latents_of.total(latents @ W_dec)) / variance(x, rows_of)


def info_nce(codes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (2004.11362, L_out) of codes of unit length; a scalar.

    For each row i with others of its label: minus the mean over these of log(exp(s_ij) / sum over all j != i of
    exp(s_ij)), s = cosine / temperature; the mean over such rows, 0 if there are none.

    Args:
        codes: [B, N], of unit length. labels: int64 [B]; rows with a negative label have no part in it.
    """
    told = labels >= 0
    codes, labels = codes[told], labels[told]
    itself = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    alike = (labels[:, None] == labels[None]) & ~itself
    logits = (codes @ codes.T / temperature).masked_fill(itself, -torch.inf)
    counts = alike.sum(1)
    if not bool((counts > 0).any()):
        return codes.sum() * 0
    chances = logits - logits.logsumexp(1, keepdim=True)
    each = torch.where(alike, chances, 0).sum(1)[counts > 0] / counts[counts > 0]
    return -each.mean()


def zipf(count: int, total: float, exponent: float, most: float = 1.0) -> Tensor:
    """Shares of `total` by rank r, proportional to r^-exponent but at most `most` each; float64 [count], descending.

    The excess over the cap goes to the other ranks in proportion. `total` must be at most `count * most`.
    """
    weights = torch.arange(1, count + 1, dtype=torch.float64) ** -exponent
    rest = weights.flip(0).cumsum(0).flip(0)
    # factors[j]: the scale of the others if the first j are at the cap. Take the smallest j that keeps them below it.
    factors = (total - most * torch.arange(count)) / rest
    full = int((factors * weights <= most * (1 + 1e-12)).to(torch.int8).argmax())
    shares = factors[full] * weights
    shares[:full] = most
    return shares


def geometric_median(x: Tensor, iterations: int = 50) -> Tensor:
    """Weiszfeld's algorithm: [B, D] -> [D], the point with the least summed distance to the rows."""
    centre = x.mean(0)
    for _ in range(iterations):
        weights = 1 / (x - centre).norm(dim=1).clamp(min=1e-6)
        centre = (weights[:, None] * x).sum(0) / weights.sum()
    return centre
