"""Group Bias Adaptation (2506.14002)."""

import torch
from torch import Tensor

from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import fvu
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Forward, Pre, SparseVariant


class GBA(SparseVariant):
    """SAE with biases b <= 0 that get no gradient: a controller keeps each latent firing as often as its group should.

    f = p where p + b > 0, else 0, with p = W_enc x_bar. This is the JumpReLU form of the paper's experiments: the bias
    decides when a latent fires, not how strongly. (Its theory is about ReLU(p + b); there W_enc can outgrow any bias,
    and on planted data it did.) The loss is the FVU alone. -b is stored as `threshold`, which inference compares with;
    `b_enc` is zero.

    The N latents form `gba.groups` groups of equal size, in order. Their target frequencies fall geometrically, the
    highest `gba.span` times the lowest, with mean k / N, so that L0 is about k. None is above 1/2 (the paper's
    highest); if that limit binds, L0 is smaller. Biases start at the quantiles of p over the first sample.

    Every `gba.window` steps b_i falls by rate * peak * clamp(q_i / target_i - 1, -1, 1): q_i is how often latent i
    fired in the window, and peak is the largest p of a latent in it, averaged over the group. The paper's step does not
    depend on how far q_i is off, and raises only the biases of silent latents; L0 then ends well below k. W_enc is not
    tied to W_dec, unlike in the paper.

    Attributes:
        target: (N). frequency: q so far, with the rest of the window counted as silent, (N). peak: largest p of the
            window so far, (N); with several processes, the mean of theirs.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        options, n = config.gba, self.n_latents
        groups = torch.arange(n).tensor_split(options.groups)
        share = torch.cat(
            [options.span ** -(j / max(1, len(groups) - 1)) * torch.ones(len(g)) for j, g in enumerate(groups)]
        )
        self.target: Tensor
        target = (share / share.mean() * config.k / n).clamp(max=0.5)
        self.register_buffer("target", target, persistent=False)
        del self.b_enc
        self.frequency: Tensor
        self.peak: Tensor
        for name in ("b_enc", "frequency", "peak"):
            self.register_buffer(name, torch.zeros(n))

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        pre = (rows - self.b_dec) @ self.W_enc.T
        ranks = (self.target * len(rows)).round().long().clamp(min=1)
        self.threshold.copy_(pre.sort(dim=0, descending=True).values.gather(0, ranks[None] - 1)[0].clamp(min=0))

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        rows, latents = (pre > self.threshold).nonzero(as_tuple=True)
        return Pattern(rows, latents, (pre.shape[0], pre.shape[1]))

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        pre = Pre(self, x)
        everything = pre.all.detach()
        pattern = self.choose(everything, pre.x_bar.detach())
        values = pre.at(pattern)
        x_hat = self.reconstruct(pattern, values)
        frequency = torch.bincount(pattern.latents, minlength=self.n_latents).to(x) / len(x)
        # `least` carries the two quantities that `follow` needs.
        least = torch.stack([frequency, everything.amax(0)])
        return Forward(fvu(x, x_hat, self.rows_of), x_hat, pattern.any(), len(values), least)

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Count, and adapt the biases at the end of a window. `least`: firing frequency and largest p, [2, N]."""
        assert least is not None
        options = self.config.gba
        self.frequency += least[0] / options.window
        torch.maximum(self.peak, least[1], out=self.peak)
        if (step + 1) % options.window:
            return
        off = (self.frequency / self.target - 1).clamp(-1, 1)
        peak = torch.cat([group.mean().expand_as(group) for group in self.peak.tensor_split(options.groups)])
        self.threshold.add_(options.rate * peak * off).clamp_(min=0)
        self.frequency.zero_()
        self.peak.zero_()
