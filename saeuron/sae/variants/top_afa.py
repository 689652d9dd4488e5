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
    """f = ReLU(p) on the prefix of a row's largest latents whose norm is closest to |x_bar|.

    `saeuron.sae.selection.top_afa` is the rule: in a dictionary of nearly orthogonal unit rows |f| is about |f W_dec|,
    so a true code is as long as its input. The data decide how many latents that takes; `k` is ignored, and the
    exported SAE has k = 0, unknown. p = W_enc x_bar has no bias: b_enc is a buffer of zeros.

    The loss is FVU + weight * D * (|f| - |x_bar|)^2 / |x - mean x|^2, the last two summed over the batch. The paper's
    code averages the norm term over rows, and squared errors over rows and numbers, hence the factor D: its weight,
    1/16, means the same here. Such a large weight is needed: without it the rule takes ever more and ever smaller
    latents, because those that point the same way are together longer than |f|. |x_bar| is what the rule compares with
    (the code's loss has |x|); it is constant in this term, which should move f, not b_dec.

    The tracked threshold, for `inference: threshold`, is TopK's. It keeps about as many latents if rows have similar
    lengths, and fewer or more if they do not.
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
        # Sums over bags have a fixed order of summation, forward and backward.
        pairs = torch.arange(len(values), device=values.device)
        norms = embedding_bag(pairs, values.square()[:, None], pattern.row_starts, mode="sum").squeeze(1).sqrt()
        wanted = pre.x_bar.detach().norm(dim=1)
        weight = self.config.top_afa.weight * self.width
        return fvu(x, x_hat, self.rows_of) + weight * squared(norms - wanted) / variance(x, self.rows_of)

    def _exported(self, hookpoint: str, activation: Activation) -> SAE:
        sae = super()._exported(hookpoint, activation)
        sae.info = replace(sae.info, k=0)
        return sae
