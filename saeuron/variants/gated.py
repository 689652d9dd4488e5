"""Gated SAE (2404.16014)."""

import torch
from torch import Tensor, nn

from saeuron.config import SAEConfig
from saeuron.losses import aux_k, fvu, variance
from saeuron.selection import kth_largest
from saeuron.sae import SAE, SAEInfo
from saeuron.variants.base import Forward, Variant


class Gated(Variant):
    """Which latents fire and how strongly are two paths that share W_enc (section 3.2):

        a = W_enc x_bar;  pi = a + b_gate;  f = 1[pi > 0] ReLU(exp(r) a + b_mag)
        loss = FVU(f W_dec + b_dec) + lambda mean_rows |ReLU(pi)|_1 / s + FVU(ReLU(pi) sg(W_dec) + sg(b_dec))

    with sg for no gradient. As rows of W_dec have unit norm, the L1 term weighs latents alike. The paper normalises
    activations to unit mean square; dividing by s = sqrt(mean |x - mean x|^2) does the same for the loss.

    The paper finds its lambda by trying. Here `gated.adapt` turns it towards L0 = k: after each step log lambda grows
    by adapt * clamp(L0 / k - 1, -1, 1), an integral controller. It is honest about nothing else: the L0 that is
    reached is that of the last steps, about k if the run is longer than a few times 1 / adapt steps; 0 leaves lambda
    at `gated.weight`.

    Inference has one path (appendix on folding the two): p = exp(r) a + b_mag, and pi > 0 where p > b_mag - exp(r)
    b_gate = theta, so that W_enc' = exp(r) W_enc, b_enc' = b_mag, and f = ReLU(p) 1[p > theta]. AuxK, which the paper
    has not, works on pi: what a dead latent lacks is an open gate. L1 bounds no number of latents, so products are
    dense.

    Attributes:
        b_gate, b_mag, r: (N), in the place of b_enc. weight: lambda, a scalar, a buffer.
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
        """(N)."""
        return self.unit * self.gate

    @property
    def b_mag(self) -> Tensor:
        """(N)."""
        return self.unit * self.magnitude

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        a = (rows - self.b_dec) @ self.W_enc.T
        self.unit.copy_(a.std())
        #self.gate.copy_(-kth_largest(a, self.config.k * len(a)) / self.unit)

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        a = (x - self.b_dec) @ self.W_enc.T
        gate = a + self.b_gate
        opening = gate.relu()
        f = (gate > 0) * (self.r.exp() * a + self.b_mag).relu()
        x_hat = f @ self.W_dec + self.b_dec
        via_gate = opening @ self.W_dec.detach() + self.b_dec.detach()
        l1 = opening.sum() / (variance(x) * len(x)).sqrt()
        loss = fvu(x, x_hat) + self.weight * l1 + fvu(x, via_gate)
        fires = f.detach() != 0
        active = int(fires.sum())
        # Not a threshold: what `follow` needs, a mean over rows.
        return Forward(loss, x_hat, fires.any(0), active, least=x.new_tensor(active / len(x)))

    def auxiliary(self, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        which = dead.nonzero().squeeze(1)
        gate = (x - self.b_dec) @ self.W_enc[which].T + self.b_gate[which]
        return aux_k(x, x_hat, gate, self.W_dec[which])

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Turn lambda towards L0 = k; `least` is L0."""
        del step
        assert least is not None
        excess = (least / self.config.k - 1).clamp(-1, 1)
        self.weight.mul_((self.config.gated.adapt * excess).exp())

    def export(self, hookpoint: str = "") -> SAE:
        info = SAEInfo(self.config.variant, self.width, self.n_latents, self.config.k, hookpoint, "threshold")
        scale = self.r.exp()
        tensors = {
            "W_enc": scale[:, None] * self.W_enc,
            "b_enc": self.b_mag.clone(),
            "threshold": self.b_mag - scale * self.b_gate,
            "W_dec": self.W_dec.clone(),
            "b_dec": self.b_dec.clone(),
        }
        return SAE.of(info, {name: value.detach().cpu() for name, value in tensors.items()})
