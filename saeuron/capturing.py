"""Collect activations while images are generated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import BadPrompts, ConfigError
from saeuron.generation import Request, generate, spread
from saeuron.hooks import Step, attached, to_rows
from saeuron.noise import generator
from saeuron.prompts import Prompt, cells, choose


def images(prompts: Iterable[Prompt], config: CaptureConfig) -> list[Request]:
    """The images to capture: `prompts_per_cell` of every full combination, `plain_prompts` of every lone concept.

    Prompts that name no concept, such as captions from a file, are no repetitions of one another: all are captured.

    Raises:
        BadPrompts: there are no training prompts.
    """
    groups = cells(p for p in prompts if p.split == "train")
    if not groups:
        raise BadPrompts("the prompt set has no training prompts; add templates or files with split 'train'.")
    full = max(len(cell) for cell in groups)
    result = []
    for cell, members in groups.items():
        count = config.prompts_per_cell if len(cell) == full else config.plain_prompts
        if not cell:
            count = len(members)
        if count:
            result += spread(choose(members, count, config.seed), count)
    return result


class _Collector:
    """Keeps the configured steps, half and positions of one hookpoint for one micro-batch."""

    def __init__(self, config: CaptureConfig, hookpoint: str) -> None:
        self.config, self.hookpoint = config, hookpoint
        self.steps: list[tuple[int, Tensor]] = []
        self.chosen: Tensor | None = None

    def start(self, batch: Sequence[Request]) -> None:
        self.batch, self.chosen = batch, None
        self.steps.clear()

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        if not step.kept(self.config.every):
            return
        if self.config.read == "update":
            if source is None or source.shape != output.shape:
                raise ConfigError("capture.read 'update' needs a hookpoint whose input has the shape of its output.")
            output = output - source
        rows = to_rows(step.half(output, self.config.half, len(self.batch)))
        if not len(rows):
            if step.in_text:
                return
            raise ConfigError(
                "capture.half is 'unconditional', but the model runs without guidance and has no such half; "
                "use 'conditional', or set model.guidance above 1."
            )
        if self.config.half == "both" and step.guided:
            # One entry per image: concatenate its halves along the positions.
            n = len(rows) // 2
            rows = torch.cat([rows[:n], rows[n:]], dim=1)
        if self.config.positions is not None and self.config.positions < rows.shape[1]:
            if self.chosen is None:
                self.chosen = self._choose(rows.shape[1]).to(rows.device)
            rows = rows.gather(1, self.chosen[..., None].expand(-1, -1, rows.shape[2]))
        dtype = torch.float16 if self.config.dtype == "float16" else torch.bfloat16
        # Always a copy: modules may overwrite their output before it is stored.
        self.steps.append((step.timestep, rows.to(dtype, copy=True)))

    def _choose(self, positions: int) -> Tensor:
        """Positions kept of each image, int64 [b, kept]: a seeded sample per image, the same at every step."""
        kept = [
            torch.randperm(positions, generator=generator(self.config.seed, "positions", r.key))[
                : self.config.positions
            ]
            for r in self.batch
        ]
        return torch.stack(kept).sort(dim=1).values

    def arrays(self) -> tuple[list[int], NDArray[Any]]:
        """(timesteps, [b, steps, kept positions, D]); bfloat16 is returned as its bits in uint16, which numpy supports.

        Raises ConfigError if a number is not finite: one would spoil a whole SAE.
        """
        if not self.steps:
            raise ConfigError(f"nothing was read at {self.hookpoint}: the pipeline does not run it for this half.")
        stacked = torch.stack([rows for _, rows in self.steps], dim=1).cpu()
        if not bool(stacked.isfinite().all()):
            raise ConfigError(
                f"activations at {self.hookpoint} are not finite in {self.config.dtype}"
                + (", with maximum 65504: set capture.dtype to bfloat16." if self.config.dtype == "float16" else ".")
            )
        if stacked.dtype == torch.bfloat16:
            stacked = stacked.view(torch.uint16)
        return [t for t, _ in self.steps], stacked.numpy()


def capture(
    pipe: Any,
    images: Sequence[Request],
    hookpoints: Sequence[str],
    model: ModelConfig,
    config: CaptureConfig,
) -> Iterator[tuple[Request, Mapping[str, list[int]], Mapping[str, NDArray[Any]], NDArray[np.uint8]]]:
    """Generate images and keep the activations of their hookpoints; several hookpoints in one pass.

    Yields:
        Per image: (request, {hookpoint: timesteps kept, -1 for a text encoder's}, {hookpoint: float16 (or bfloat16
        bits in uint16) [steps, positions, D]}, uint8 image [H, W, 3]).
    """
    collectors = {path: _Collector(config, path) for path in hookpoints}

    def begin(batch: Sequence[Request]) -> None:
        for collector in collectors.values():
            collector.start(batch)

    with attached(pipe, readers=collectors):
        for done, pictures in generate(pipe, images, model, config.seed, begin=begin):
            arrays = {path: c.arrays() for path, c in collectors.items()}
            timesteps = {path: steps for path, (steps, _) in arrays.items()}
            for i, request in enumerate(done):
                yield request, timesteps, {path: a[i] for path, (_, a) in arrays.items()}, pictures[i]
