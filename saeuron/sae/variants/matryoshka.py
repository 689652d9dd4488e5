"""Matryoshka SAE (2503.17547), the BatchTopK form."""

import torch
from torch import Tensor

from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import squared, variance
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Forward, Pre
from saeuron.sae.variants.batch_topk import BatchTopK


class Matryoshka(BatchTopK):
    """One BatchTopK f, decoded from nested prefixes of the latents; the loss is the mean of their FVUs.

    With widths n_1 < .. < n_m = N, x_hat_j = f[:n_j] W_dec[:n_j] + b_dec. The first latents must do without the later
    ones: they become general, and are not absorbed by specific ones. The paper sums over j (section 3); the mean has
    the same minimum, and keeps AuxK's relative weight the same as in other variants. AuxK and inference use all N
    latents. The paper draws random widths in one of its experiments; here they are fixed: `matryoshka.fractions` of N,
    rounded.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        widths = {max(1, round(fraction * self.n_latents)) for fraction in config.matryoshka.fractions}
        self.widths = sorted(widths)
        """n_1 < .. < n_m."""

    def prefixes(self, pattern: Pattern, values: Tensor) -> Tensor:
        """x_hat of every prefix, [B, m, D]: each band of latents n_(j-1) .. n_j is decoded once, then accumulated."""
        m = len(self.widths)
        band = torch.bucketize(pattern.latents, torch.tensor(self.widths, device=values.device), right=True)
        order = (pattern.rows * m + band).argsort(stable=True)
        # One bag of latents for each row and band.
        bags = Pattern((pattern.rows * m + band)[order], pattern.latents[order], (pattern.shape[0] * m, self.n_latents))
        values = values[order]
        bands = self.decode(bags, values) if self.fast else bags.dense(values) @ self.decoder()
        return bands.unflatten(0, (-1, m)).cumsum(1) + self.b_dec

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        pre = Pre(self, x)
        pattern = self.choose(pre.all.detach(), pre.x_bar.detach())
        values = pre.at(pattern)
        x_hat = self.prefixes(pattern, values)
        loss = squared(x[:, None] - x_hat) / (variance(x, self.rows_of) * len(self.widths))
        return Forward(loss, x_hat[:, -1], pattern.any(), len(values), self.least(pattern, values.detach()))
