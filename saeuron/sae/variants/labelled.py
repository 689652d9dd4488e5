"""Base of the variants that learn from concept labels."""

from abc import abstractmethod
from functools import partial

from torch import Tensor

from saeuron.errors import SaeuronError
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Forward, Pre
from saeuron.sae.variants.topk import TopK


class LabelledTopK(TopK):
    """A TopK SAE with a term of its loss that labels decide (`supervised`). At inference it is TopK, without labels."""

    sizes: tuple[int, ...] = ()
    """The number of concepts of each domain, G in all; set by the trainer."""

    def forward(self, x: Tensor, step: int, labels: Tensor | None = None) -> Forward:
        del step
        if labels is None or labels.shape != (len(x), len(self.sizes)):
            got = "none" if labels is None else f"{tuple(labels.shape)}"
            raise SaeuronError(
                f"labels of {len(x)} rows for the variant {self.config.variant!r}: got {got}, expected int64 "
                f"({len(x)}, {len(self.sizes)}), one for each domain."
            )
        return self.result(x, partial(self.supervised, labels))

    @abstractmethod
    def supervised(self, labels: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        """The term of the loss for the labels of the rows, int64 [B, G]."""

    def first(self, pre: Pre, rows: int, latents: int) -> Tensor:
        """p of the first latents at the first rows, [rows, latents], differentiable; always float32 or wider."""
        return pre.x_bar[:rows] @ self.W_enc[:latents].T + self.b_enc[:latents]
