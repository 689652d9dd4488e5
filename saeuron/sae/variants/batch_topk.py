"""BatchTopK (2412.06410)."""

from torch import Tensor

from saeuron.sae.selection import floor, largest
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import SparseVariant


class BatchTopK(SparseVariant):
    """f = ReLU(p) on the k B largest of the batch (section 3): rows may use more or fewer than k latents.

    At inference a row must not depend on others: f = ReLU(p) 1[p > theta], with theta the running mean of the least
    kept activation.
    """

    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        del x_bar
        count = self.config.k * len(pre)
        rows, latents = largest(pre, count)
        found = Pattern(rows, latents, (pre.shape[0], pre.shape[1]))
        if self.latents_of.size > 1:
            values = pre[rows, latents]
            found = found.where(values >= floor(values, count, self.latents_of))
        return found
