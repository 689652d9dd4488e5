"""Codes of one concept together, of others apart: in the manner of SAEParate (2605.12122)."""

from torch import Tensor
from torch.nn.functional import normalize

from saeuron.sae.losses import info_nce
from saeuron.sae.sparse import Pattern
from saeuron.sae.variants.base import Pre
from saeuron.sae.variants.labelled import LabelledTopK


class Contrastive(LabelledTopK):
    """TopK with a supervised contrastive term on ReLU(p), the code before the k largest are chosen.

    The loss is FVU + weight * NCE, with NCE the mean over domains of `saeuron.sae.losses.info_nce` at `temperature`: of
    the rows that ask for a concept of the domain, those of one concept attract each other, and those of its other
    concepts repel each other. Rows that ask for none there have no part in that domain's term.

    The paper's code compares ReLU(p) averaged over the positions of an image at one timestep, in batches made of pairs
    of neighbouring timesteps, with a mask of positions from cross-attention. Choices of this project: rows are compared
    one by one, as they come, because a batch here is shuffled over images; there is no mask; each domain has a term of
    its own, so that a pair of one object in two styles attracts in one term and repels in the other (the paper trains
    an SAE for each domain, or takes as positive what agrees in both). Its layer with a GELU before the encoder is left
    out: inference here has one linear encoder. At most `contrastive.rows` rows of a batch are compared, the first of
    each process's slice; so with several processes the result is that of one only where all rows are compared.
    """

    def supervised(self, labels: Tensor, pattern: Pattern, values: Tensor, pre: Pre) -> Tensor:
        del pattern, values
        options, ranks = self.config.contrastive, self.rows_of
        rows = min(len(labels), -(-options.rows // ranks.size))
        codes = ranks.gathered(normalize(self.first(pre, rows, self.n_latents).relu(), dim=1))
        labels = ranks.gather(labels[:rows], 0)
        terms = [info_nce(codes, column, options.temperature) for column in labels.unbind(1)]
        return options.weight * sum(terms, codes.new_zeros(())) / len(terms)
