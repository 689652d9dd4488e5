"""Every variant of a sparse autoencoder, by the name that the configuration knows it by (`train.variant`)."""

from saeuron.sae_config import SAEConfig
from saeuron.variants.abs_topk import AbsTopK
from saeuron.variants.base import Forward, SparseVariant, Variant
from saeuron.variants.batch_topk import BatchTopK
from saeuron.variants.choice import FeatureChoice, MutualChoice
from saeuron.variants.gated import Gated
from saeuron.variants.gba import GBA
from saeuron.variants.jumprelu import JumpReLU
from saeuron.variants.matryoshka import Matryoshka
from saeuron.variants.ra_sae import RASAE
from saeuron.variants.top_afa import TopAFA
from saeuron.variants.topk import TopK
from saeuron.variants.vsae import VSAE

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
}

__all__ = ["VARIANTS", "Forward", "SparseVariant", "Variant", "make"]


def make(config: SAEConfig, width: int) -> Variant:
    """The untrained variant that a configuration names, for activations of `width`."""
    return VARIANTS[config.variant](config, width)
