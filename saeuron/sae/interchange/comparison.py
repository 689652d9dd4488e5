"""Two SAEs beside one another: whether the dictionaries hold the same directions, and the encoders read the same."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.dictionary import nearest
from saeuron.sae.interchange.folder import BadSAE

MATCH = 0.9
"""A latent is found in the other SAE if a decoder row there has a larger cosine."""
BINS = 10


@dataclass(frozen=True)
class OneWay:
    """The latents of one SAE among those of another."""

    mean: float
    """Of each latent's largest cosine between decoder rows."""
    found: float
    """Share of latents whose largest cosine is above MATCH."""
    histogram: tuple[int, ...]
    """Latents by their largest cosine, in BINS steps from 0 to 1; negative ones count in the first."""
    encoder: float
    """Mean cosine between the encoder rows of the pairs that the decoders make."""


@torch.no_grad()
def one_way(of: SAE, among: SAE) -> OneWay:
    """How the latents of one SAE are found among those of another.

    Raises:
        BadSAE: they are of different widths.
    """
    if of.info.width != among.info.width:
        raise BadSAE(f"SAEs of widths {of.info.width} and {among.info.width} have no directions in common to compare.")
    best = nearest(of.W_dec, among.W_dec)
    bins = (best.cosine.clamp(min=0) * BINS).long().clamp(max=BINS - 1)
    encoder = cosine_similarity(of.W_enc.float(), among.W_enc[best.latent].float(), dim=1)
    return OneWay(
        mean=float(best.cosine.double().mean()),
        found=float((best.cosine > MATCH).double().mean()),
        histogram=tuple(bins.bincount(minlength=BINS).tolist()),
        encoder=float(encoder.double().mean()),
    )


@torch.no_grad()
def differences(a: SAE, b: SAE) -> dict[str, float] | None:
    """The largest absolute difference in each tensor; None for SAEs of different sizes."""
    mine, other = a.state_dict(), b.state_dict()
    if any(mine[name].shape != other[name].shape for name in mine):
        return None
    return {name: float((mine[name] - other[name]).abs().max()) for name in mine}
