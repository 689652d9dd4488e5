"""AbsTopK (2510.00404)."""

from typing import ClassVar

import torch
from torch import Tensor

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.losses import aux_k, mean_of_finite
from saeuron.sae.selection import Activation
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import SparseVariant


class AbsTopK(SparseVariant):
    """f = p, with its sign, on the k largest |p| of each row: one latent holds a direction and its opposite.

    Firing means f != 0. The export is a TopK SAE of 2N latents, f+ and f-, with encoder [W; -W], [b; -b] and decoder
    [W_dec; -W_dec]. Its k largest ReLU are AbsTopK split by sign, so scores, thresholds and densities are well defined.
    Latent i + N is the opposite of latent i; if a direction is used with one sign only, the other latent is dead.

    The paper has no AuxK. Here a dead latent helps with both halves: the k_aux largest |p| of the dead, signed.
    The tracked threshold is on |p|: the mean over rows of the least kept value, as for TopK.
    """

    activation: ClassVar[Activation] = "topk"
    by_row: ClassVar[bool] = True

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        sizes, latents = self.kernels.row_top_k(pre.abs(), self.config.k)
        rows = torch.arange(len(pre), device=pre.device).repeat_interleave(self.config.k)
        return Pattern(rows, latents.flatten(), (pre.shape[0], pre.shape[1])).where(sizes.flatten() != 0)

    def least(self, pattern: Pattern, values: Tensor) -> Tensor:
        least = values.new_full((pattern.shape[0],), torch.inf)
        return mean_of_finite(least.scatter_reduce(0, pattern.rows, values.abs(), "amin"))

    def auxiliary(self, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        which = dead.nonzero().squeeze(1)
        pre = (x - self.b_dec) @ self.W_enc[which].T + self.b_enc[which]
        rows = self.decoder()[which]
        return aux_k(x, x_hat, torch.cat([pre, -pre], dim=1), torch.cat([rows, -rows]), rows_of=self.rows_of)

    def _exported(self, hookpoint: str, activation: Activation) -> SAE:
        info = SAEInfo(self.config.variant, self.width, 2 * self.n_latents, self.config.k, hookpoint, activation)
        sides = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.decoder()}
        tensors = {name: torch.cat([t, -t]).detach().cpu() for name, t in sides.items()}
        tensors |= {"threshold": self.threshold.repeat(2).cpu(), "b_dec": self.b_dec.detach().cpu().clone()}
        return SAE.of(info, tensors)
