"""Every variant of a sparse autoencoder, by the name that the configuration knows it by (`train.variant`)."""

from saeuron.config import SAEConfig
from saeuron.variants.base import Forward, SparseVariant, Variant
from saeuron.variants.batch_topk import BatchTopK
from saeuron.variants.topk import TopK

VARIANTS: dict[str, type[Variant]] = {
    "topk": TopK,
    "batch_topk": BatchTopK,
}

__all__ = ["VARIANTS", "Forward", "SparseVariant", "Variant", "make"]


def make(config: SAEConfig, width: int) -> Variant:
    """The untrained variant that a configuration names, for activations of `width`."""
    return VARIANTS[config.variant](config, width)
