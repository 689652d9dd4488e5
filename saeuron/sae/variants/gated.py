"""Gated SAE (2404.16014)."""

import torch
from torch import Tensor, nn

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import aux_k, fvu, variance
from saeuron.sae.variants.base import Forward, Variant


class Gated(Variant):
    """Two paths that share W_enc decide which latents fire and how strongly (section 3.2); sg means no gradient:

        a = W_enc x_bar;  pi = a + b_gate;  f = 1[pi > 0] ReLU(exp(r) a + b_mag)
        loss = FVU of f W_dec + b_dec + lambda mean |ReLU(pi)|_1 / s + FVU of ReLU(pi) sg(W_dec) + sg(b_dec)

    Rows of W_dec have unit norm, so the L1 norm weighs latents alike. The paper's activations have unit mean square;
    dividing by s = sqrt(mean |x - mean x|^2) makes lambda independent of their scale. For the same reason both biases
    are stored in units of the standard deviation of a over the first sample.

    The paper finds lambda by trial. Here a controller moves it towards L0 = k, with L0 that of the batch: lambda =
    weight * (L0 / k)^2, and after each step log weight grows by adapt * clamp(L0 / k - 1, -1, 1). It only approaches k:
    after a few hundred steps L0 is within about a fifth of it. With `gated.adapt` 0, lambda is `weight`.

    Inference has one path: p = exp(r) a + b_mag, and pi > 0 where p > b_mag - exp(r) b_gate = theta. So W_enc' =
    exp(r) W_enc, b_enc' = b_mag and f = ReLU(p) 1[p > theta], as in the paper's appendix on tied weights. AuxK, which
    the paper lacks, works on pi, because a dead latent needs an open gate. L1 does not bound the number of active
    latents, so products are dense.

    Attributes:
        gate, magnitude, r: (N), parameters that replace b_enc. unit, weight: scalars, buffers.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        del self.b_enc
        self.gate, self.magnitude, self.r = (nn.Parameter(torch.zeros(self.n_latents)) for _ in range(3))
        self.unit: Tensor
        self.weight: Tensor
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("weight", torch.tensor(config.gated.weight))

    @property
    def b_gate(self) -> Tensor:
        """b_gate, (N)."""
        return self.unit * self.gate

    @property
    def b_mag(self) -> Tensor:
        """b_mag, (N)."""
        return self.unit * self.magnitude

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        self.unit.copy_(((rows - self.b_dec) @ self.W_enc.T).std().clamp(min=1e-12))

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        a = (x - self.b_dec) @ self.W_enc.T
        pi = a + self.b_gate
        f = (self.r.exp() * a + self.b_mag).relu() * (pi > 0)
        x_hat = f @ self.W_dec + self.b_dec
        opening = pi.relu()
        via_gate = opening @ self.W_dec.detach() + self.b_dec.detach()
        fires = f.detach() != 0
        active = int(fires.sum())
        l0 = x.new_tensor(active / len(x))
        self.rows_of.average([l0])
        push = (l0 / self.config.k) ** 2 if self.config.gated.adapt else 1
        l1 = opening.sum() / (variance(x, self.rows_of) * len(x)).sqrt()
        loss = fvu(x, x_hat, self.rows_of) + self.weight * push * l1 + fvu(x, via_gate, self.rows_of)
        # Thresholds are learned here, so `least` carries L0 instead, which `follow` needs.
        return Forward(loss, x_hat, fires.any(0), active, least=l0)

    def auxiliary(self, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        which = dead.nonzero().squeeze(1)
        pi = (x - self.b_dec) @ self.W_enc[which].T + self.b_gate[which]
        return aux_k(x, x_hat, pi, self.W_dec[which], rows_of=self.rows_of)

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Move lambda towards L0 = k; `least` is L0, a scalar."""
        del step
        assert least is not None
        excess = (least / self.config.k - 1).clamp(-1, 1)
        self.weight.mul_((self.config.gated.adapt * excess).exp())

    def export(self, hookpoint: str = "") -> SAE:
        info = SAEInfo(self.config.variant, self.width, self.n_latents, self.config.k, hookpoint, "threshold")
        scale = self.r.exp()
        tensors = {
            "W_enc": scale[:, None] * self.W_enc,
            "b_enc": self.b_mag,
            "threshold": self.b_mag - scale * self.b_gate,
            "W_dec": self.W_dec.clone(),
            "b_dec": self.b_dec.clone(),
        }
        return SAE.of(info, {name: value.detach().cpu() for name, value in tensors.items()})
