"""vSAE, the variational sparse autoencoder (2509.22994)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from saeuron.noise import generator
from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import fvu, mean_of_finite
from saeuron.sae.selection import Activation, row_top_k, top_k
from saeuron.sae.variants.base import Forward, Variant


class VSAE(Variant):
    """f = ReLU(z) on the k largest z of each row, z = mu + u sigma noise, noise from N(0, 1); at inference z = mu.

    mu = p, before any gate, as suits the mean of a Gaussian (the authors' code takes the divergence of ReLU(z)); the
    gate, TopK's, is applied to the sample z. The loss is
    FVU + weight * KL(N(mu / u, sigma^2) || N(0, 1)), the mean over rows and latents of
    (mu^2 / u^2 + sigma^2 - 1 - log sigma^2) / 2, with a weight that rises from zero over the first steps.

    sigma is fixed, or (`vsae.variance: learned`) exp(l / 2) with l = W_var x_bar + b_var, starting at the fixed value.
    The paper's prior is N(0, 1) in the units of its activations. Ours may have any scale, so u, the standard deviation
    of p over the first sample, is the unit of noise and prior.

    Every latent contributes to the divergence and may be drawn, so gradients are dense; `precision` and the sparse path
    do not apply. A latent counts as fired if its mu is among the k largest: a latent that only noise activates is dead
    at inference. The tracked threshold, for `inference: threshold`, is the least kept mu.
    """

    activation: ClassVar[Activation] = "topk"

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()))
        self.start = 2 * math.log(config.vsae.sigma)
        if config.vsae.variance == "learned":
            self.W_var = nn.Parameter(torch.zeros(self.n_latents, width))
            self.b_var = nn.Parameter(torch.full((self.n_latents,), self.start))

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        self.unit.copy_(((rows - self.b_dec) @ self.W_enc.T).std().clamp(min=1e-12))

    def log_variance(self, x_bar: Tensor) -> Tensor:
        """log sigma^2, [B, N], or a scalar if it is fixed."""
        if self.config.vsae.variance == "fixed":
            return x_bar.new_tensor(self.start)
        return x_bar @ self.W_var.T + self.b_var

    def forward(self, x: Tensor, step: int) -> Forward:
        config, x_bar = self.config, x - self.b_dec
        mu = x_bar @ self.W_enc.T + self.b_enc
        log_variance = self.log_variance(x_bar)
        noise = self.noise(mu, step)
        latents = top_k(mu + self.unit * (log_variance / 2).exp() * noise, config.k)
        x_hat = latents @ self.W_dec + self.b_dec
        divergence = ((mu / self.unit).square() + log_variance.exp() - 1 - log_variance).mean() / 2
        loss = fvu(x, x_hat, self.rows_of) + self.weight(step) * divergence
        kept, where = row_top_k(mu.detach(), config.k)
        fired = torch.zeros(self.n_latents, dtype=torch.bool, device=x.device)
        fired[where[kept > 0]] = True
        least = mean_of_finite(kept.where(kept > 0, torch.inf).amin(1))
        return Forward(loss, x_hat, fired, int((latents != 0).sum()), least)

    def noise(self, mu: Tensor, step: int) -> Tensor:
        """N(0, 1) for every row and latent, [B, N]: this rank's slice of the noise of the whole batch.

        Drawn on the device, because sending it there would take longer than the step; a GPU's noise differs from a
        CPU's.
        """
        chance = generator(self.config.seed, "vsae", step, device=mu.device)
        batch = len(mu) * self.rows_of.size
        return self.rows_of.part(torch.randn(batch, mu.shape[1], generator=chance, device=mu.device)).to(mu)

    def weight(self, step: int) -> float:
        """Weight of the divergence at a step."""
        rise = self.config.vsae.warmup * self.config.steps
        return self.config.vsae.weight * min(1.0, (step + 1) / max(1.0, rise))
