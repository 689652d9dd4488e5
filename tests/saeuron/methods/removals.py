"""Small SAEs, profiles and removals that the tests of removals share."""

import torch

from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from saeuron.methods.saeuron import build_edit
from saeuron.profiles import Profile
from saeuron.sae.autoencoder import SAE, SAEInfo

VARIANTS = ("topk", "batch_topk")
PATH = "unet.up_blocks.1.attentions.1"
D, N, T = 6, 40, 4
TIMESTEPS = (999, 749, 499, 249)


def random_sae(variant="batch_topk", width=D, n=N, seed=0, hookpoint=PATH):
    activation = "topk" if variant == "topk" else "threshold"
    sae = SAE(SAEInfo(variant, width, n, 12, hookpoint, activation), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_enc.normal_(generator=generator)
        sae.b_enc.normal_(generator=generator).mul_(0.2)
        sae.b_dec.normal_(generator=generator).mul_(0.2)
        sae.threshold.uniform_(0.1, 0.5, generator=generator)
    return sae.requires_grad_(False)


def random_profile(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(T, n, generator=generator)
    return Profile(
        timesteps=torch.tensor(TIMESTEPS),
        mean=mean,
        threshold=torch.rand(T, n, generator=generator) * 0.8,
        score=torch.randn(T, n, generator=generator, dtype=torch.float64),
    )


def rows(count=50, seed=9):
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def example(variant="batch_topk"):
    first = build_edit(random_sae(variant), random_profile(), 5, -2.0, sae_id="s1")
    second = build_edit(random_sae(variant, hookpoint="unet.mid_block.attentions.0"), random_profile(1), 3, -1.0)
    return Removal(
        "neon", "style", "saeuron", {"n": 5, "gamma": -2.0}, (first, second), {"reference": ["neon", "sepia"]}
    )


def assert_same_edit(one: LatentEdit, two: LatentEdit):
    for name, value in vars(one).items():
        other = getattr(two, name)
        same = (
            torch.equal(value, other) and value.dtype == other.dtype
            if isinstance(value, torch.Tensor)
            else value == other
        )
        assert same, name
