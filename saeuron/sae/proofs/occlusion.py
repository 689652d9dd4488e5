"""Test 4 of an SAE: whether a loud attribute keeps a quiet one out of the dictionary (2405.08366, section 7).

A part alpha of the louder attribute's rows u is taken from all activations, and an SAE is trained on what is left:
latents that name the quiet attribute should become more. Planted rows say whether the test can tell: m + u_quiet +
rho u_loud + noise, with the covariance of what labels do not explain, and rho the ratio of the two attributes'
lengths. `part` names the set of images: each has noise of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saeuron.noise import generator
from saeuron.sae.proofs.attributes import Asked, Attributes, design
from saeuron.sae.proofs.rows import Rows


def louder(attributes: Attributes) -> tuple[str, str]:
    """(the domain whose rows are longest, the one whose are shortest). There must be two domains."""
    domains = sorted({domain for domain, _ in attributes.concepts}, key=attributes.loudness)
    return domains[-1], domains[0]


def rows_of(attributes: Attributes, domain: str, asked: Sequence[Asked]) -> Tensor:
    """The pooled u of what images ask for in a domain, float32 [n, S, D]; 0 where they ask for nothing of it."""
    shown = design(asked, attributes.concepts)
    other = torch.tensor([True, *(d != domain for d, _ in attributes.concepts)])
    return torch.einsum("nc,scd->nsd", shown.masked_fill(other, 0), attributes.pooled[:, :, 0])


def astray(attributes: Attributes, domain: str, seed: int) -> Attributes:
    """The same, with the rows of a domain turned to random directions: equal lengths, the control."""
    full = attributes.full.clone()
    for i, (d, concept) in enumerate(attributes.concepts):
        if d == domain:
            length = attributes.pooled[:, 1 + i, 0].norm(dim=-1, keepdim=True)
            drawn = torch.randn(full.shape[-1], generator=generator(seed, "astray", concept), device="cpu")
            full[:, 1 + i] = (length * drawn / drawn.norm())[:, None]
    return Attributes(attributes.timesteps, attributes.concepts, attributes.mean, full, attributes.shuffled)


def without(rows: Rows, attributes: Attributes, domain: str, alpha: float) -> Rows:
    """Rows without the part alpha of a domain's u."""
    return rows.of(rows.values.float() - alpha * rows_of(attributes, domain, rows.asked)[:, :, None])


def residual_factor(rows: Rows, attributes: Attributes) -> Tensor:
    """L, float32 (D, D), with L L^T the covariance of what the pooled dictionary of labels leaves."""
    D = rows.values.shape[-1]
    covariance, n = torch.zeros(D, D, dtype=torch.float64), 0
    for step, timestep in enumerate(rows.timesteps):
        left = rows.at(step).double() - attributes.rebuilt(rows.asked, timestep, "pooled").double()
        flat = left.flatten(0, 1)
        covariance += flat.T @ flat
        n += len(flat)
    values, vectors = torch.linalg.eigh(covariance / n)
    return (vectors * values.clamp(min=0).sqrt()).float()


def planted(
    rows: Rows, attributes: Attributes, loud: str, quiet: str, rho: float, factor: Tensor, seed: int, part: str
) -> Rows:
    """Rows of the same images in which nothing but two attributes and noise is; see the head of this file."""
    ratio = rho * (attributes.loudness(quiet) / max(attributes.loudness(loud), 1e-30)) ** 0.5
    signal = rows_of(attributes, quiet, rows.asked) + ratio * rows_of(attributes, loud, rows.asked)
    noise = torch.randn(rows.values.shape, generator=generator(seed, "planted", rho, part), device="cpu") @ factor.T
    return rows.of(attributes.mean[None, :, None] + signal[:, :, None] + noise)


PLANTS = ("3 Gaussians", "1 Gaussian", "1 Gaussian, wide")
"""Forms of an attribute: three directions, one of them, or one Gaussian with the mean and covariance of three."""


def clusters(
    rows: Rows, plant: str, factor: Tensor, length: float, seed: int, part: str
) -> tuple[Rows, list[str | None]]:
    """Rows of noise, with one attribute in half of the images, for test 5.

    Args:
        plant: one of PLANTS. An image with the attribute has a direction of `length` added at every position.
        part: names the set; others have other noise and the same directions.

    Returns:
        (the rows, [n] `yes` or `no`).
    """
    n, _, _, D = rows.values.shape
    chance = generator(seed, "clusters", n, part)
    has = torch.rand(n, generator=chance, device="cpu") < 0.5
    centres = torch.randn(3, D, generator=generator(seed, "centres"), device="cpu")
    centres = length * centres / centres.norm(dim=1, keepdim=True)
    if plant == "1 Gaussian, wide":
        middle = centres.mean(0)
        added = middle + torch.randn(n, 3, generator=chance, device="cpu") @ (centres - middle) / 3**0.5
    else:
        of = 3 if plant == "3 Gaussians" else 1
        added = centres[torch.randint(of, (n,), generator=chance, device="cpu")]
    noise = torch.randn(rows.values.shape, generator=chance, device="cpu") @ factor.T
    return rows.of(noise + (has[:, None] * added)[:, None, None]), ["yes" if h else "no" for h in has.tolist()]
