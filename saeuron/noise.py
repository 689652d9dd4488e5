"""Seeded random numbers that belong to an image, not to a batch, an order or a worker."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed, hashed from the parts' text: the same on every machine and in every process."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator seeded by `derive_seed`; its numbers depend on the kind of device."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


def initial_noise(seed: int, images: Sequence[tuple[str, int]], shape: Sequence[int]) -> Tensor:
    """Initial noise of each image, float32 [len(images), *shape], on the CPU.

    Args:
        seed: the run's seed.
        images: (prompt id, image index) of each image.
        shape: (C, H, W) of one image's latents.
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed, p, i), device="cpu") for p, i in images])
