"""Mutual Choice and Feature Choice (2411.02124): assign k B pairs of latents and rows."""

from abc import abstractmethod

import torch
from torch import Tensor

from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import zipf
from saeuron.sae.selection import largest
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Pre, SparseVariant

_BLOCK = 256


class _Choice(SparseVariant):
    """The part that both share: aux_zipf_loss, which replaces AuxK, with its weight `auxk_alpha`.

    A latent is under-used when its density (running mean of the share of rows in which it is active) is below `share`
    of its expected density. The loss is AuxK's formula (`saeuron.sae.losses.aux_k`) with under-used latents in place of
    dead ones: the D/2 of them with the largest p reconstruct the residual. It is part of every step's loss, because
    latents need help before they are dead. The paper calls it a generalisation of AuxK to under-used latents; the rule
    for who is under-used is ours. With a share so small that only densities of zero are below it, it equals AuxK with
    a running mean for memory.
    """

    share: float

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.density: Tensor
        # Start at the mean density: no latent falls short before the first batch is counted.
        self.register_buffer("density", torch.full((self.n_latents,), config.k / self.n_latents))

    @abstractmethod
    def expected(self) -> Tensor:
        """Expected density of each latent, (N)."""

    def under_used(self) -> Tensor:
        """Under-used latents, bool [N]."""
        return self.density < self.share * self.expected()

    def loss(self, x: Tensor, x_hat: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        found = super().loss(x, x_hat, pattern, values, pre)
        if self.config.auxk_alpha:
            found = found + self.config.auxk_alpha * super().auxiliary(x, x_hat, self.under_used())
        return found

    def auxiliary(self, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        """Zero: dead latents are under-used, so `loss` includes them."""
        del x_hat, dead
        return x.new_zeros(())

    @abstractmethod
    def least_kept(self, pattern: Pattern, values: Tensor) -> Tensor:
        """Least kept activation of each latent, (N)."""

    def least(self, pattern: Pattern, values: Tensor) -> Tensor:
        """The two tracked quantities, [2, N]: the least kept activation, and the density in this batch."""
        counts = torch.bincount(pattern.latents, minlength=self.n_latents)
        return torch.stack([self.least_kept(pattern, values), counts.to(values) / pattern.shape[0]])

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Update theta, and the density as a running mean over about the last hundred steps."""
        assert least is not None
        super().follow(least[0], step)
        self.density.lerp_(least[1], max(1 / (step + 1), 0.01))


class MutualChoice(_Choice):
    """f = ReLU(p) on the k B largest affinities of the batch, over all rows and latents.

    The affinity of a row and a latent is p, so the choice is BatchTopK's; the difference is aux_zipf_loss in place of
    AuxK. The r-th most used latent is expected to have the r-th density of Zipf's law with mean k / N
    (`mutual_choice.exponent`), but at most that mean: a latent that does its part is not under-used because those
    before it do more.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.share = config.mutual_choice.share

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        rows, latents = largest(pre, self.config.k * len(pre))
        return Pattern(rows, latents, (pre.shape[0], pre.shape[1]))

    def expected(self) -> Tensor:
        k, n = self.config.k, self.n_latents
        by_rank = zipf(n, k, self.config.mutual_choice.exponent).clamp(max=k / n).to(self.density)
        order = self.density.argsort(descending=True, stable=True)
        return torch.empty_like(by_rank).scatter(0, order, by_rank)

    def least_kept(self, pattern: Pattern, values: Tensor) -> Tensor:
        return SparseVariant.least(self, pattern, values).expand(self.n_latents)


class FeatureChoice(_Choice):
    """f = ReLU(p) on the m_i rows of the batch with the largest p_i, for every latent i; the sum of m_i is k B.

    So no latent can be crowded out, and the number of latents per row is free. m is uniform or follows Zipf's law
    (`quotas`, `feature_choice.exponent`) in the latent's index: which latents are common is decided before training. A
    latent may fill less than its quota, because a negative p gives nothing; it is under-used when it fills less than
    `share` of it.

    At inference theta_i is the running mean of latent i's own least kept activation.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.share = config.feature_choice.share
        self.density.copy_(self.expected())

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        batch, n = pre.shape
        m = quotas(n, self.config.k * batch, self.config.feature_choice.exponent, batch)
        chosen = torch.zeros_like(pre, dtype=torch.bool)
        # In blocks of latents: a few of the first may take every row, the others take few.
        for p, wanted, found in zip(pre.split(_BLOCK, 1), m.split(_BLOCK), chosen.split(_BLOCK, 1), strict=True):
            values, where = p.topk(int(wanted.max()), dim=0)
            rank = torch.arange(len(values), device=pre.device)[:, None]
            found.scatter_(0, where, (rank < wanted.to(pre.device)) & (values > 0))
        rows, latents = chosen.nonzero(as_tuple=True)
        return Pattern(rows, latents, (batch, n))

    def expected(self) -> Tensor:
        return zipf(self.n_latents, self.config.k, self.config.feature_choice.exponent).to(self.density)

    def least_kept(self, pattern: Pattern, values: Tensor) -> Tensor:
        return values.new_full((self.n_latents,), torch.inf).scatter_reduce(0, pattern.latents, values, "amin")


def quotas(count: int, total: int, exponent: float, most: int) -> Tensor:
    """Whole numbers between 1 and `most` with sum `total`, close to Zipf's law; int64 [count], on the CPU.

    Everyone gets one (if there are enough); the rest is shared by `saeuron.sae.losses.zipf`, rounded by the method of
    largest remainders.
    """
    each = int(total >= count)
    ideal = each + zipf(count, total - each * count, exponent, most - each)
    found = ideal.floor().long()
    left = total - int(found.sum())
    found[(ideal - found).argsort(descending=True, stable=True)[:left]] += 1
    return found
