"""All SAE variants, by their name in the configuration (`train.variant`).

base.py         what variants have in common: parameters, loss, export
topk.py         TopK, Multi-TopK (2406.04093)
batch_topk.py   BatchTopK (2412.06410)
gba.py          Group Bias Adaptation (2506.14002)
gated.py        Gated (2404.16014)
abs_topk.py     AbsTopK (2510.00404)
matryoshka.py   Matryoshka (2503.17547)
jumprelu.py     JumpReLU (2407.14435)
top_afa.py      top-AFA (2503.24277)
choice.py       Mutual and Feature Choice (2411.02124)
vsae.py         vSAE (2509.22994)
ra_sae.py       RA-SAE (2502.12892)
labelled.py     what variants that learn from concept labels have in common
assigned.py     a latent of its own for each concept (as SAEmnesia, 2509.21379)
contrastive.py  codes of one concept together, of others apart (as SAEParate, 2605.12122)
"""

from saeuron.sae.config import SAEConfig
from saeuron.sae.variants.abs_topk import AbsTopK
from saeuron.sae.variants.assigned import Assigned
from saeuron.sae.variants.base import Forward, SparseVariant, Variant
from saeuron.sae.variants.batch_topk import BatchTopK
from saeuron.sae.variants.choice import FeatureChoice, MutualChoice
from saeuron.sae.variants.contrastive import Contrastive
from saeuron.sae.variants.gated import Gated
from saeuron.sae.variants.gba import GBA
from saeuron.sae.variants.jumprelu import JumpReLU
from saeuron.sae.variants.labelled import LabelledTopK
from saeuron.sae.variants.matryoshka import Matryoshka
from saeuron.sae.variants.ra_sae import RASAE
from saeuron.sae.variants.top_afa import TopAFA
from saeuron.sae.variants.topk import TopK
from saeuron.sae.variants.vsae import VSAE

VARIANTS: dict[str, type[Variant]] = {
    "topk": TopK,
    "batch_topk": BatchTopK,
    "gba": GBA,
    "gated": Gated,
    "abs_topk": AbsTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "top_afa": TopAFA,
    "mutual_choice": MutualChoice,
    "feature_choice": FeatureChoice,
    "vsae": VSAE,
    "ra_sae": RASAE,
    "assigned": Assigned,
    "contrastive": Contrastive,
}

__all__ = ["VARIANTS", "Forward", "LabelledTopK", "SparseVariant", "Variant", "make"]


def make(config: SAEConfig, width: int) -> Variant:
    """The untrained variant that a configuration names, for activations of D = `width`."""
    return VARIANTS[config.variant](config, width)
