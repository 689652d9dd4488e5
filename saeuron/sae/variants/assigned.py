"""A latent of its own for each concept, in the manner of SAEmnesia (2509.21379)."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from saeuron.sae.config import SAEConfig
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Pre
from saeuron.sae.variants.labelled import LabelledTopK


class Assigned(LabelledTopK):
    """TopK in which the c-th latent is on in rows of images that ask for the c-th concept, and off in others.

    Concepts are counted through all domains, in the order of the labels. The loss is FVU + weight * CE, with CE the
    mean over concepts of half the mean of softplus(-z) over rows that ask for the concept and half the mean of
    softplus(z) over all others, z = (p - theta) / u. theta is the least kept p of the row (0 if none is kept), without
    a gradient: z is above zero where the latent is among the k largest. u is the standard deviation of p over the first
    sample, so that the weight does not depend on the scale of the activations.

    The paper (its concept assignment loss) averages -log sigmoid(p) over the concepts that each row asks for. Choices
    of this project: rows that do not ask count too, or a latent that is always on would be best; both kinds of rows
    weigh alike, because one row in tens asks; theta, because p > 0 does not mean that TopK keeps it; u. The paper first
    trains without labels and takes for each concept the latent of the best score; here latents 0, 1, 2.. are assigned
    before training, in one stage. Its terms against correlation between domains and for L1 are left out. As in the
    paper, every row of an image has the image's labels, wherever the concept is in it.
    """

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()))

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        self.unit.copy_(((rows - self.b_dec) @ self.W_enc.T).std().clamp(min=1e-12))

    def asks(self, labels: Tensor) -> Tensor:
        """Which rows ask for which concept, bool [B, C], of labels [B, G]."""
        each = [
            labels[:, g, None] == torch.arange(size, device=labels.device)[None] for g, size in enumerate(self.sizes)
        ]
        return torch.cat(each, dim=1)

    def supervised(self, labels: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        asks = self.asks(labels)
        least = values.new_full((pattern.shape[0],), torch.inf)
        least = least.scatter_reduce(0, pattern.rows, values.detach(), "amin")
        theta = torch.where(torch.isfinite(least), least, 0)
        z = (self.first(pre, len(asks), asks.shape[1]) - theta[:, None]) / self.unit
        # Counts of the whole batch divided by the number of ranks: the mean over ranks is then that of one process.
        asking, others = asks.sum(0).to(z), (~asks).sum(0).to(z)
        self.rows_of.average([asking, others])
        on = (softplus(-z) * asks).sum(0) / torch.where(asking > 0, asking, 1)
        off = (softplus(z) * ~asks).sum(0) / torch.where(others > 0, others, 1)
        return self.config.assigned.weight * (on + off).mean() / 2
