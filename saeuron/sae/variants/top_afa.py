"""top-AFA (2503.24277)."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import fvu, squared, variance
from saeuron.sae.selection import Activation, top_afa
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Pre
from saeuron.sae.variants.topk import TopK


class TopAFA(TopK):
    """F = ReLU(p) on the shortest prefix of a row's largest latents whose norm is closest to |x_bar|.

    `saeuron.sae.selection.top_afa` is the rule: in a dictionary of nearly orthogonal unit rows |f| is about |f W_dec|,
    so a true code is as long as its input. The data decide how many latents that takes; `k` plays no part, and the
    exported SAE gives its k as 0, which says that nobody knows. There is no b_enc: p = W_enc x_bar, and b_enc is a
    buffer of zeros.

    The loss is FVU + weight * D * (|f| - |x_bar|)^2 / |x - mean x|^2, the last two summed over the batch. The paper's
    code has means over rows of the norm term and over rows and numbers of squared errors, hence D: its weight, 1/16,
    means here what it means there. That is much, and has to be: without it the rule takes ever more latents, each
    ever smaller, since those that point the same way are together longer than |f|. |x_bar| is what the rule compares
    with (the code's loss has |x|), and is a constant to this term: it is there to move f, not b_dec.

    The threshold that is followed, for `inference: threshold`, is TopK's. It keeps about as many latents where rows
    are of like length, and fewer or more where they are not.
    """

    activation: ClassVar[Activation] = "top_afa"

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        del self.b_enc
        self.register_buffer("b_enc", torch.zeros(self.n_latents))

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        rows, latents = top_afa(pre, x_bar.norm(dim=-1)).nonzero(as_tuple=True)
        return Pattern(rows, latents, (pre.shape[0], pre.shape[1]))

    def loss(self, x: Tensor, x_hat: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        # Sums over bags: one order of summation, forward and backward.
        pairs = torch.arange(len(values), device=values.device)
        norms = embedding_bag(pairs, values.square()[:, None], pattern.row_starts, mode="sum").squeeze(1).sqrt()
        wanted = pre.x_bar.detach().norm(dim=1)
        weight = self.config.top_afa.weight * self.width
        return fvu(x, x_hat, self.rows_of) + weight * squared(norms - wanted) / variance(x, self.rows_of)

    def _exported(self, hookpoint: str, activation: Activation) -> SAE:
        sae = super()._exported(hookpoint, activation)
        sae.info = replace(sae.info, k=0)
        return sae
