"""JumpReLU (2407.14435)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import fvu
from saeuron.sae.selection import kth_largest
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Forward, Pre, SparseVariant


def kernel(distance: Tensor) -> Tensor:
    """K(u) = 1[|u| < 1/2], the paper's rectangle; any shape."""
    return (distance.abs() < 0.5).to(distance.dtype)


class _Jump(torch.autograd.Function):
    """f = p 1[p > theta], all [M]; df/dp = 1[p > theta], df/dtheta = -(theta / eps) K((p - theta) / eps)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, eps: Tensor) -> Tensor:
        ctx.save_for_backward(pre, theta, eps)
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pre, theta, eps = ctx.saved_tensors
        return gradient * (pre > theta), -gradient * theta / eps * kernel((pre - theta) / eps), None


class _Step(torch.autograd.Function):
    """H = 1[p > theta], all [M]; dH/dp = 0, dH/dtheta = -(1 / eps) K((p - theta) / eps)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, eps: Tensor) -> Tensor:
        ctx.save_for_backward(pre, theta, eps)
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pre, theta, eps = ctx.saved_tensors
        return None, -gradient / eps * kernel((pre - theta) / eps), None


class JumpReLU(SparseVariant):
    """f = p 1[p > theta], theta = exp(l) learned; the loss is FVU + weight * (L0 / k - 1)^2, L0 the mean over rows.

    Gradients use the paper's straight-through rule (section 3). Of its sparsity losses, this is the one that aims at a
    given L0, so that `k` means the same as in other variants. L0 has a gradient for the thresholds only, not for p.

    The paper relies on normalised activations; here the scales come from the first sample (`initialise`). The kernel's
    width eps is `jumprelu.bandwidth` standard deviations of p. Every theta starts where BatchTopK's would be, at the
    least of the k B largest p, so that L0 is k and steps are cheap from the start (the paper starts at a small theta,
    with many latents active). Adam moves every parameter by about the learning rate, but log theta has to move further
    than weights: it is stored in units of `jumprelu.speed`.

    Attributes:
        level: l / speed, (N). eps: a scalar, a buffer.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.level = nn.Parameter(torch.zeros(self.n_latents))
        self.eps: Tensor
        self.register_buffer("eps", torch.tensor(config.jumprelu.bandwidth))
        self.follow(None, 0)

    def theta(self) -> Tensor:
        """theta, (N)."""
        return (self.config.jumprelu.speed * self.level).exp()

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        pre = torch.addmm(self.b_enc, rows - self.b_dec, self.W_enc.T)
        # Identical rows have no deviation.
        self.eps.copy_((self.config.jumprelu.bandwidth * pre.std()).clamp(min=1e-12))
        least = kth_largest(pre, self.config.k * len(pre)).clamp(min=float(self.eps))
        self.level.copy_(least.log() / self.config.jumprelu.speed)
        self.follow(None, 0)

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        """Pairs that are active, or less than half the kernel's width below theta."""
        del x_bar
        rows, latents = (pre > self.theta() - self.eps / 2).nonzero(as_tuple=True)
        return Pattern(rows, latents, (pre.shape[0], pre.shape[1]))

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        all_pre = Pre(self, x)
        near = self.choose(all_pre.all.detach(), all_pre.x_bar.detach())
        # embedding sums its gradient in a fixed order; plain indexing does not.
        pre, theta = all_pre.at(near), embedding(near.latents, self.theta()[:, None]).squeeze(1)
        values = _Jump.apply(pre, theta, self.eps)
        x_hat = self.reconstruct(near, values)
        l0 = _Step.apply(pre, theta, self.eps).sum() / len(x)
        everybodys = l0.detach().clone()
        self.rows_of.average([everybodys])
        l0 = l0 + (everybodys - l0.detach())
        loss = fvu(x, x_hat, self.rows_of) + self.config.jumprelu.weight * (l0 / self.config.k - 1) ** 2
        active = near.where(values.detach() != 0)
        return Forward(loss, x_hat, active.any(), len(active.rows))

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Copy the learned thresholds for inference; nothing else is tracked."""
        del least, step
        self.threshold.copy_(self.theta())
