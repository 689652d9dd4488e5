"""Read one hookpoint while held-out images are generated: sums, largest activations, a sample of rows."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.config import Half, ModelConfig
from saeuron.errors import BadPrompts, ConfigError
from saeuron.generation import Request, generate, latent_shape, spread
from saeuron.hooks import Step, attached, to_rows
from saeuron.memory import undoing
from saeuron.noise import generator
from saeuron.prompts import Prompt, cells, choose
from saeuron.sae.autoencoder import SAE, check_width
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.norms import Norm, Norms
from saeuron.sae.diagnosis.thirds import Thirds
from saeuron.sae.moments import Moments

HALVES: tuple[Half, ...] = ("conditional", "unconditional")
ALWAYS_ON = 0.9
"""A latent that fires on at least this fraction of rows tells little about any of them."""
QUARTERS = (0.25, 0.5, 0.75)
"""Where, among the images in which a latent fires, the further examples are taken."""


class Firing(NamedTuple):
    """How each latent fires at each of T steps, over all rows of one half; float64 or int64."""

    timesteps: list[int]
    """[T], descending."""
    rows: Tensor
    """[T]."""
    images: Tensor
    """[T]."""
    fires: Tensor
    """[T, N], rows with f != 0."""
    total: Tensor
    """[T, N], sum of f."""
    maximum: Tensor
    """[T, N], largest f."""
    image_fires: Tensor
    """[N], images with f != 0 at any step."""


class Examples(NamedTuple):
    """Images of each latent by the mean of f over their rows, largest first; ties go to the earlier image.

    The mean is what scores count too (`saeuron.scoring`), so that pictures and scores speak of the same. R = K + 3: the
    first K images, then those at a quarter, a half and three quarters of the images in which the latent fires.
    """

    mean: Tensor
    """float64 [R, N], mean of f over positions and steps; 0 where there is no such image."""
    rank: Tensor
    """int64 [R, N], the image's place, from 1."""
    image: Tensor
    """int64 [R, N], index into the requested images."""
    value: Tensor
    """[R, N], largest f of the image."""
    timestep: Tensor
    """int64 [R, N], where it is largest; ties go to the noisiest."""
    position: Tensor
    """int64 [R, N], its position of P, in row-major order."""
    heat: Tensor
    """uint8 [K, P, N]: f of the first K at that timestep, scaled so that 255 is the latent's overall maximum."""
    thirds: list[Tensor]
    """uint8 [K, P, N] for each third of the generation that has a step (see `Thirds`): the mean of f over its steps, on
    the scale of `heat`. Empty in a text encoder."""


class Gathered(NamedTuple):
    """Everything that was read."""

    moments: dict[tuple[int, Half], Moments]
    """{(timestep, half): sums}."""
    firing: Firing
    examples: Examples
    rows: Tensor
    """[R, D], the sample."""
    row_image: Tensor
    """int64 [R], the image of each row."""
    grid: tuple[int, int]
    """(height, width) of a map of P positions; (1, P) if the positions form no map."""
    norms: list[Norm]
    """Lengths of rows and activations, of the half that is read."""


class _Sums(NamedTuple):
    """The contents of `Firing`, for one step."""

    rows: Tensor
    images: Tensor
    fires: Tensor
    total: Tensor
    maximum: Tensor

    def and_(self, other: "_Sums") -> "_Sums":
        """Combine the two."""
        maximum = torch.maximum(self.maximum, other.maximum)
        return _Sums._make([*(a + b for a, b in zip(self[:4], other[:4], strict=True)), maximum])


@dataclass
class _Best:
    """Largest activation so far of each image of a micro-batch: [b, N], its map [b, P, N], and the sum of all."""

    value: Tensor
    timestep: Tensor
    position: Tensor
    maps: Tensor
    total: Tensor
    rows: int


class _Images(NamedTuple):
    """Statistics of each image and latent, [images, N]."""

    mean: Tensor
    value: Tensor
    timestep: Tensor
    position: Tensor


def held_out(prompts: Sequence[Prompt], config: DiagnosisConfig) -> list[Request]:
    """The held-out images: one test prompt of each combination of concepts, up to `config.images`, chosen by the seed.

    Raises:
        BadPrompts: there are no test prompts.
    """
    found = [p for p in prompts if p.split == "test"]
    if not found:
        raise BadPrompts("the prompt set has no test prompts; add templates or files with split 'test'.")
    one_each = [choose(members, 1, config.seed)[0] for members in cells(found).values()]
    return spread(choose(one_each, config.images, config.seed), config.images)


class Reader:
    """Reads the hookpoint of an SAE; see `saeuron.hooks`."""

    def __init__(self, pipe: Any, sae: SAE, images: Sequence[Request], steps: int, config: DiagnosisConfig) -> None:
        self.sae, self.config, self.steps = sae, config, steps
        self.images = images
        self.per_image = max(1, config.rows // len(images))
        self._latents = latent_shape(pipe)[1:]
        self._moments: dict[tuple[int, Half], Moments] = {}
        self._sums: dict[int, _Sums] = {}
        self._image_fires = torch.zeros(sae.info.n_latents, dtype=torch.int64)
        self._of_images: list[_Images] = []
        self._top: tuple[Tensor, list[Tensor]] | None = None
        """[K, N] largest means so far, and maps of their images, [K, P, N]: where they are largest, then by third."""
        self._rows: list[Tensor] = []
        self._row_image: list[int] = []
        self.grid = (0, 0)
        self._norms = Norms(sae)

    def over(self, pipe: Any, model: ModelConfig) -> Iterator[tuple[list[Request], NDArray[np.uint8]]]:
        """Generate the images and read the hookpoint meanwhile; yields what `generate` does."""
        done, self._latents = 0, latent_shape(pipe, model)[1:]

        def begin(batch: Sequence[Request]) -> Callable[[], None]:
            self._start(done, batch)
            return undoing(self, self._norms)

        with attached(pipe, readers={self.sae.info.hookpoint: self}):
            for batch, pictures in generate(pipe, self.images, model, self.config.seed, begin=begin):
                self._finish()
                done += len(batch)
                yield batch, pictures

    def _start(self, first: int, batch: Sequence[Request]) -> None:
        self._first, self._batch = first, batch
        self._best: _Best | None = None
        self._thirds = Thirds()
        self._fired: Tensor | None = None
        self._chosen: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        if self.config.read == "update":
            if source is None or source.shape != output.shape:
                raise ConfigError("an SAE of updates needs a hookpoint whose input has the shape of its output.")
            output = output - source
        self.grid = (1, to_rows(output).shape[1]) if step.in_text else _grid(output, self._latents)
        for half in HALVES:
            x = to_rows(step.half(output, half, len(self._batch))).float()
            if not len(x):
                if half == self.config.half and not step.in_text:
                    raise ConfigError("the model runs without guidance and has no unconditional half.")
                continue
            check_width(self.sae.info.width, x.shape[2], f"the SAE for {self.sae.info.hookpoint}")
            f = self.sae.encode(x)
            x_hat = self.sae.decode(f)
            found = Moments.of(x, f, x_hat)
            key = step.timestep, half
            self._moments[key] = self._moments[key] + found if key in self._moments else found
            if half == self.config.half:
                self._norms.add(x, f, x_hat)
                self._count(step.timestep, f)
                self._compare(step.timestep, f)
                self._thirds.add(step, f)
                self._sample(max(step.index, 0), x)

    def _count(self, timestep: int, f: Tensor) -> None:
        active = f != 0
        fired = active.any(1)
        self._fired = fired if self._fired is None else self._fired | fired
        rows, images = torch.tensor(f.shape[0] * f.shape[1]), torch.tensor(len(f))
        found = _Sums(
            rows,
            images,
            active.sum((0, 1)).cpu(),
            f.sum((0, 1), dtype=torch.float64).cpu(),
            f.amax((0, 1)).double().cpu(),
        )
        self._sums[timestep] = self._sums[timestep].and_(found) if timestep in self._sums else found

    def _compare(self, timestep: int, f: Tensor) -> None:
        value, position = f.max(1)
        here, total, rows = torch.full_like(position, timestep), f.sum(1, dtype=torch.float64), f.shape[1]
        if self._best is None:
            self._best = _Best(value, here, position, f, total, rows)
            return
        best, larger = self._best, value > self._best.value
        self._best = _Best(
            torch.where(larger, value, best.value),
            torch.where(larger, here, best.timestep),
            torch.where(larger, position, best.position),
            torch.where(larger[:, None], f, best.maps),
            best.total + total,
            best.rows + rows,
        )

    def _sample(self, index: int, x: Tensor) -> None:
        positions = x.shape[1]
        if not self._chosen:
            self._chosen = [
                torch.randperm(self.steps * positions, generator=generator(self.config.seed, "rows", r.key))[
                    : self.per_image
                ]
                for r in self._batch
            ]
        for i, (rows, chosen) in enumerate(zip(x, self._chosen, strict=True)):
            here = chosen[chosen // positions == index] % positions
            self._rows.append(rows[here.to(rows.device)])
            self._row_image += [self._first + i] * len(here)

    def _finish(self) -> None:
        """Merge this micro-batch into the overall largest activations."""
        assert self._best is not None and self._fired is not None
        self._image_fires += self._fired.sum(0).cpu()
        b = self._best
        mean = b.total / b.rows
        self._of_images.append(_Images(mean.cpu(), b.value.cpu(), b.timestep.cpu().int(), b.position.cpu().int()))
        maps = itertools.chain([b.maps], self._thirds.means())
        before, kept = self._top or (mean[:0], [b.maps[:0]] * (1 + len(self._thirds)))
        means = torch.cat([before, mean])
        order = means.sort(dim=0, descending=True, stable=True).indices[: self.config.examples]
        cells = order[:, None].expand(-1, b.maps.shape[1], -1)
        # One kind of map after another, because each takes as much memory as f at a step.
        best = [torch.cat(both).gather(0, cells) for both in zip(kept, maps, strict=True)]
        self._top = means.gather(0, order), best

    def _examples(self, largest: Tensor) -> Examples:
        """The chosen images; `largest` [N] is the overall maximum of each latent."""
        assert self._top is not None
        images = _Images._make(map(torch.cat, zip(*self._of_images, strict=True)))
        heat, *thirds = (_scaled(maps.cpu(), largest) for maps in self._top[1])
        order = images.mean.sort(dim=0, descending=True, stable=True).indices
        firing = (images.mean > 0).sum(0)
        first = torch.arange(len(heat))[:, None].expand(-1, order.shape[1])
        later = torch.stack([(firing * share).ceil().long() - 1 for share in QUARTERS])
        # A quarter among the first images adds none; nor does a quarter of a latent that never fires.
        known = torch.cat([first < firing, (later >= len(heat)) & (later < firing)])
        ranks = torch.cat([first, later]).clamp(min=0)
        chosen = order.gather(0, ranks)
        picked = {name: part.gather(0, chosen) for name, part in images._asdict().items()}
        picked["mean"] = picked["mean"] * known
        for name in ("timestep", "position"):
            picked[name] = picked[name].long()
        return Examples(rank=ranks + 1, image=chosen, heat=heat, thirds=thirds, **picked)

    def gathered(self) -> Gathered:
        """Everything read so far."""
        timesteps = sorted(self._sums, reverse=True)
        sums = _Sums._make(torch.stack(parts) for parts in zip(*(self._sums[t] for t in timesteps), strict=True))
        return Gathered(
            self._moments,
            Firing(timesteps, **sums._asdict(), image_fires=self._image_fires),
            self._examples(sums.maximum.amax(0)),
            torch.cat(self._rows),
            torch.tensor(self._row_image),
            self.grid,
            self._norms.by_latents(),
        )


def _scaled(maps: Tensor, largest: Tensor) -> Tensor:
    """Maps [K, P, N] as uint8; `largest` [N] is 255."""
    return ((maps / largest.float().clamp(min=1e-12)).clamp(0, 1) * 255).round().to(torch.uint8)


def _grid(output: Tensor, latents: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a hookpoint's positions: a map's own; for a sequence, from the shape of the image latents."""
    if output.ndim == 4:
        return output.shape[2], output.shape[3]
    positions, (height, width) = (output.shape[1] if output.ndim == 3 else 1), latents
    rows = round((positions * height / width) ** 0.5)
    return (rows, positions // rows) if rows * rows * width == positions * height else (1, positions)
