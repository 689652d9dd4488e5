"""Score latents for a concept and select the best: sums gathered during generation (2501.18052, section 4.2).

    mu(i,t,c) = mean of f_i over all positions and images of the prompts of c at step t
    s(i,t,c)  = mu(i,t,c) / (sum_j mu(j,t,c) + d) - mu(i,t,other) / (sum_j mu(j,t,other) + d),   d = 1e-8
    F(c,t)    = the n latents with the highest score at that step

mu(., other) pools the rows of all other concepts of the domain: a pooled mean, not a mean of means. `profiles.py`
derives what a removal needs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.config import Half, ModelConfig, ScoreConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Begin, Request, generate, requests, spread
from saeuron.hooks import Reader, Step, attached, to_rows
from saeuron.memory import undoing
from saeuron.prompts import Prompt, cells, choose
from saeuron.sae.autoencoder import SAE, check_width

DELTA = 1e-8
FIXED_POINT = 1 << 24
"""Sums are integers in units of 2^-24, so that they are equal in any order of merging."""


class Totals(NamedTuple):
    """Sums of one concept per (step, latent); T steps, N latents."""

    timesteps: NDArray[np.int32]
    """[T], descending; the scheduler's timesteps."""
    fires: NDArray[np.uint64]
    """[T, N], rows with f != 0."""
    image_fires: NDArray[np.uint32]
    """[T, N], images with any f != 0 (positions of one image are correlated)."""
    sum_fixed: NDArray[np.int64]
    """[T, N], sum of f in units of 2^-24."""
    sumsq_fixed: NDArray[np.int64]
    """[T, N], sum of f^2 in units of 2^-24."""
    max: NDArray[np.float32]
    """[T, N], largest f."""
    n_rows: NDArray[np.uint64]
    """[T], rows seen."""
    n_images: NDArray[np.uint32]
    """[T], images seen."""


class Accumulator:
    """Read one hookpoint, encode, and keep sums only: no activation is stored."""

    def __init__(self, sae: SAE, half: Half, every: int = 1, known: int | None = None) -> None:
        """Read every `every`-th denoising step, except the steps that are multiples of `known`."""
        self.sae, self.half, self.every, self.known = sae, half, every, known
        self.images: int | None = None
        """Number of images of a batch that count, from the first; None: all. See `saeuron.memory.LANES`."""
        self._cells: dict[int, dict[str, Tensor]] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        if not step.kept(self.every) or (self.known and step.kept(self.known)):
            return
        rows = to_rows(step.half(output, self.half, self.images)).float()
        images = len(rows)
        if not images:
            return
        check_width(self.sae.info.width, rows.shape[2], f"the SAE for {self.sae.info.hookpoint}")
        f = self.sae.encode(rows)
        fixed = (f.double() * FIXED_POINT).round().long()
        squares = (f.double().square() * FIXED_POINT).round().long()
        active = f != 0
        found = {
            "fires": active.sum((0, 1)),
            "image_fires": active.any(1).sum(0),
            "sum_fixed": fixed.sum((0, 1)),
            "sumsq_fixed": squares.sum((0, 1)),
            "max": f.amax((0, 1)),
            "n_rows": torch.tensor(images * rows.shape[1]),
            "n_images": torch.tensor(images),
        }
        found = {name: value.cpu() for name, value in found.items()}
        cell = self._cells.get(step.timestep)
        if cell is None:
            self._cells[step.timestep] = found
            return
        for name, value in found.items():
            cell[name] = torch.maximum(cell[name], value) if name == "max" else cell[name] + value

    def totals(self) -> Totals:
        """The sums gathered so far, steps from noise to image."""
        steps = sorted(self._cells, reverse=True)

        def stack(name: str) -> NDArray[Any]:
            return torch.stack([self._cells[t][name] for t in steps]).numpy()

        return Totals(
            np.array(steps, dtype=np.int32),
            stack("fires").astype(np.uint64),
            stack("image_fires").astype(np.uint32),
            stack("sum_fixed"),
            stack("sumsq_fixed"),
            stack("max"),
            stack("n_rows").astype(np.uint64),
            stack("n_images").astype(np.uint32),
        )


def images(prompts: Iterable[Prompt], config: ScoreConfig, domain: str, concept: str, score_on: str) -> list[Request]:
    """The concept's scoring images: crossed with every concept of the other domains, or alone.

    Raises:
        BadPrompts: the prompt set has none.
    """
    mine = [
        p
        for p in prompts
        if p.split == "train" and p.concepts.get(domain) == concept and (len(p.concepts) > 1) == (score_on == "crossed")
    ]
    if not mine:
        raise BadPrompts(
            f"no {score_on} training prompts ask for {domain} {concept!r}; add templates, "
            f"or set domains.{domain}.score_on to {'plain' if score_on == 'crossed' else 'crossed'}."
        )
    if config.images_per_prompt is not None:
        return requests(choose(mine, len(mine), config.seed), config.images_per_prompt)
    if score_on == "plain":
        return spread(choose(mine, len(mine), config.seed), config.images)
    return spread([choose(c, 1, config.seed)[0] for c in cells(mine).values()], config.images)


def gather(
    pipe: Any,
    readers: Sequence[tuple[str, Accumulator]],
    wanted: Sequence[Request],
    model: ModelConfig,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> list[Totals]:
    """Generate images and sum the latents of several SAEs, in one pass.

    Args:
        readers: (hookpoint, what reads it); several may read one hookpoint.
        report: called with the number of images that are done.

    Returns:
        Sums over all images, in the order of the readers.
    """
    at: dict[str, list[Accumulator]] = {}
    for hookpoint, reader in readers:
        at.setdefault(hookpoint, []).append(reader)
    with attached(pipe, readers={hookpoint: _in_turn(chain) for hookpoint, chain in at.items()}):
        done = 0
        for batch, _ in generate(pipe, wanted, model, seed, begin=counting([reader for _, reader in readers])):
            done += len(batch)
            report(done)
    return [reader.totals() for _, reader in readers]


class Counting(Protocol):
    """A reader that knows how many images of a batch count, from the first; see `saeuron.memory.LANES`."""

    images: Any

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None: ...


def counting(readers: Sequence[Counting]) -> Begin:
    """Tell readers how many images of each micro-batch count; what they kept of one that failed is undone."""

    def begin(batch: Sequence[Request]) -> Callable[[], None]:
        for reader in readers:
            reader.images = len(batch)
        return undoing(*readers)

    return begin


def _in_turn(readers: Sequence[Accumulator]) -> Reader:
    """One reader that calls several."""

    def read(step: Step, output: Tensor, source: Tensor | None) -> None:
        for reader in readers:
            reader(step, output, source)

    return read


def means(sum_fixed: Tensor, n_rows: Tensor) -> Tensor:
    """mu, float64 [..., T, N] from sums [..., T, N] (units of 2^-24) and row counts [..., T]."""
    return sum_fixed.double() / FIXED_POINT / n_rows.double().clamp(min=1)[..., None]


def scores(sum_fixed: Tensor, n_rows: Tensor) -> Tensor:
    """s for every concept of one domain, float64 [C, T, N].

    Args:
        sum_fixed: int64 [C, T, N], units of 2^-24.
        n_rows: int64 [C, T].
    """
    own = means(sum_fixed, n_rows)
    other = means(sum_fixed.sum(0) - sum_fixed, n_rows.sum(0) - n_rows)
    return share(own) - share(other)


def share(mu: Tensor) -> Tensor:
    """mu / (sum_j mu_j + d), over the last dimension."""
    return mu / (mu.sum(-1, keepdim=True) + DELTA)


def select(score: Tensor, n: int) -> Tensor:
    """F: the n latents with the highest score at each step, best first, int64 [T, n]; ties go to the lower index."""
    return score.argsort(dim=-1, descending=True, stable=True)[..., :n]
