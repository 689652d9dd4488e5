"""A probe: a weighted sum of a few latents that tells at the first denoising step whether an image shows a concept.

    g(b) = sum_{i in F} w_i max_q p_i(b,q) + w_0,    open where g >= 0;  q runs over positions, of the conditional half

    p_i    the latent's pre-activation, w_enc,i (x - b_dec) + b_enc,i. No TopK is needed for it, so a probe holds only
           its own rows of the encoder
    F      the n latents with the greatest |s(i,t,c)| at the first scored step t: also those that fire for others
    w      logistic regression on z_i, max_q p_i standardised:
           min  mean over images of c of log(1 + e^-g) + mean over images of others of log(1 + e^g) + R |w|^2 / 2

Both kinds of images have equal weight, however many there are. The first step is enough, although the picture is still
noise: cross-attention has read the prompt (docs/log.md, 2026-11-29).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from saeuron.generation import Request, generate
from saeuron.hooks import INPUT, Step, attached, to_rows
from saeuron.methods.base import Evidence
from saeuron.methods.parts import Part
from saeuron.pipelines import family_of
from saeuron.profiles import Profile
from saeuron.sae.autoencoder import SAE, check_width
from saeuron.scoring import select

RIDGE = 0.01
"""R, the weight of |w|^2 / 2. CHOSEN: with 20 and 40 images the classes are often separable, and w would diverge."""
SHUT = 1e-3
"""g of the image without the concept that comes nearest to opening a strict probe is this far below 0."""
ROUNDS = 50
"""Newton steps, at most; a dozen are usually enough."""


@dataclass(frozen=True, eq=False)
class Probe(Part):
    """Latents of one SAE that are read and never edited; u latents, D the width. See the head of this file."""

    kind: ClassVar[str] = "probe"

    hookpoint: str
    sae_id: str
    latents: Tensor
    """int64 [u], ascending: indices into the SAE."""
    W: Tensor
    """float32 [u, D], rows of its encoder."""
    b: Tensor
    """float32 [u]: p = W x + b."""
    weights: Tensor
    """float32 [u]."""
    bias: float
    """w_0."""

    def scaled(self, strength: float) -> "Probe":
        """Itself: detection does not depend on the strength."""
        del strength
        return self

    def reached(self, output: Tensor) -> Tensor:
        """max_q p, float32 [images, u], of a module's output for a batch of images."""
        rows = to_rows(output).float()
        check_width(self.W.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        return (rows @ self.W.T + self.b).amax(-2)

    def height(self, output: Tensor) -> Tensor:
        """g, float32 [images]."""
        return self.reached(output) @ self.weights + self.bias

    def margin(self, output: Tensor) -> Tensor:
        """g / (sum_i |w_i max_q p_i| + |w_0|), in [-1, 1], float32 [images]; open at 0 and above. No gradient flows
        through the divisor.
        """
        reached = self.reached(output)
        scale = reached.detach().abs() @ self.weights.abs() + abs(self.bias)
        return (reached @ self.weights + self.bias) / scale.clamp(min=torch.finfo(torch.float32).tiny)


Select = Callable[[Evidence, str, int], Tensor]
"""(evidence, hookpoint, n) -> the n latents of a probe, bool [N]."""


def first(profile: Profile) -> int:
    """The row of the first scored step, that of the highest timestep."""
    return int(profile.timesteps.argmax())


def strongest(evidence: Evidence, hookpoint: str, n: int) -> Tensor:
    """The n latents with the greatest |s| at the first scored step, bool [N]."""
    about = evidence.profiles[hookpoint]
    score = about.score[first(about)].abs()
    return torch.zeros(len(score), dtype=torch.bool).scatter(0, select(score, n), True)


def probes(evidence: Evidence, n: int, chosen: Select = strongest, *, strict: bool = False) -> tuple[Probe, ...]:
    """A probe for each hookpoint, fitted to the evidence's images of the concept and of others; see `stricter`."""
    plain = [
        reading(sae, chosen(evidence, hookpoint, n), evidence.sae_ids.get(hookpoint, ""))
        for hookpoint, sae in evidence.saes.items()
    ]
    mine, others = (heights(evidence, images, plain) for images in (evidence.target, evidence.others))
    fitted = [fit(yes, no) for yes, no in zip(mine, others, strict=True)]
    if strict:
        fitted = [(w, stricter(w, bias, no)) for (w, bias), no in zip(fitted, others, strict=True)]
    return tuple(replace(p, weights=w, bias=bias) for p, (w, bias) in zip(plain, fitted, strict=True))


def reading(sae: SAE, selected: Tensor, sae_id: str = "") -> Probe:
    """A probe of the selected latents of an SAE, bool [N], with weights still 0."""
    latents = selected.nonzero().flatten()
    about = {name: value.detach().cpu().double() for name, value in sae.state_dict().items()}
    W = about["W_enc"][latents]
    b = about["b_enc"][latents] - W @ about["b_dec"]
    return Probe(sae.info.hookpoint, sae_id, latents, W.float(), b.float(), torch.zeros(len(latents)), 0.0)


def fit(yes: Tensor, no: Tensor) -> tuple[Tensor, float]:
    """(w float32 [u], w_0), by Newton's method in float64.

    Args:
        yes: max_q p of images with the concept, [P, u].
        no: the same of images without it, [Q, u].
    """
    x = torch.cat([yes, no]).double()
    y = torch.cat([torch.ones(len(yes)), torch.zeros(len(no))]).double()
    each = torch.cat([torch.full((len(yes),), 1 / len(yes)), torch.full((len(no),), 1 / len(no))]).double()
    mean, spread = x.mean(0), x.std(0, correction=0)
    # A latent that is constant over images gets weight 0.
    spread = torch.where(spread > 0, spread, torch.inf)
    z = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    penalty = torch.full((z.shape[1],), RIDGE, dtype=x.dtype)
    penalty[-1] = 0
    w = torch.zeros(z.shape[1], dtype=x.dtype)
    for _ in range(ROUNDS):
        p = torch.sigmoid(z @ w)
        gradient = z.T @ (each * (p - y)) + penalty * w
        hessian = (z * (each * p * (1 - p))[:, None]).T @ z + penalty.diag()
        change = torch.linalg.solve(hessian, gradient)
        w = w - change
        if change.abs().max() < 1e-10:
            break
    weights = w[:-1] / spread
    return weights.float(), float(w[-1] - weights @ mean)


def stricter(w: Tensor, bias: float, no: Tensor) -> float:
    """w_0 lowered as far as needed to shut the probe for every image without the concept, `no` [Q, u]."""
    return bias - max(0.0, float((no @ w + bias).max()) + SHUT)


class _Enough(Exception):
    """Ends a generation after its first step."""


class _Heights:
    """A reader of one hookpoint: max_q p of every image at the first step."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.images = probe, 0
        self.found: list[Tensor] = []

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        self.found.append(self.probe.reached(step.half(output, "conditional", self.images)).cpu())


def heights(evidence: Evidence, images: Sequence[Request], plain: Sequence[Probe]) -> list[Tensor]:
    """max_q p at the first step of each image's generation, float32 [images, u], for each probe.

    Generations are ended there, so an image costs one run of the denoiser.
    """
    readers = {probe.hookpoint: _Heights(probe) for probe in plain}
    left, size, runs = list(images), 0, 0

    def begin(batch: Sequence[Request]) -> Callable[[], None]:
        nonlocal size, runs
        size, runs = len(batch), 0
        before = [len(reader.found) for reader in readers.values()]
        for reader in readers.values():
            reader.images = size

        def undo() -> None:
            for reader, count in zip(readers.values(), before, strict=True):
                del reader.found[count:]

        return undo

    def began(step: Step, sample: Tensor, source: Tensor | None) -> None:
        nonlocal runs
        del step, sample, source
        runs += 1
        if runs > 1:
            raise _Enough

    with attached(evidence.pipe, readers={family_of(evidence.pipe).root + INPUT: began, **readers}):
        while left:
            try:
                # With a single denoising step, `_Enough` is never raised.
                for batch, _ in generate(evidence.pipe, left, evidence.model, evidence.seed, begin=begin):
                    left = left[len(batch) :]
            except _Enough:
                left = left[size:]
    return [torch.cat(readers[probe.hookpoint].found) for probe in plain]
