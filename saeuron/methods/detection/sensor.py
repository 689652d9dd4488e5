"""Sensors: latents that detect a concept, and where they fire within a run of the denoiser.

A sensor is a `GatedEdit` that is only read, never applied: it fires at the positions where a latent is above its floor,
in the conditional half. Sensors see a module's output before edits of that module, but after edits of earlier modules.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saeuron.errors import ConfigError
from saeuron.hooks import INPUT, Reader, Step, to_rows
from saeuron.methods.base import Evidence
from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.latents import edit_latents
from saeuron.methods.saeuron import best
from saeuron.pipelines import family_of


def sensors(evidence: Evidence, n: int) -> tuple[GatedEdit, ...]:
    """A sensor for each hookpoint: the n latents with the highest score at each step, and their floors m(i,t)."""
    found = []
    for hookpoint, sae in evidence.saes.items():
        about = evidence.profiles[hookpoint]
        edit = edit_latents(
            sae,
            about.timesteps,
            best(about, n),
            torch.zeros_like(about.mean),
            about.threshold,
            sae_id=evidence.sae_ids.get(hookpoint, ""),
            half="conditional",
        )
        found.append(gated(edit, "scaled"))
    return tuple(found)


def whole(name: str, values: Sequence[Any]) -> list[int]:
    """Values of a setting that counts latents, few before many.

    Raises:
        ConfigError: a value is not a whole number of at least 1.
    """
    if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
        raise ConfigError(f"{name} holds {bad[0]!r}; expected whole numbers of latents, at least 1.")
    return sorted(values)


class Memory:
    """The positions at which one concept's sensors fire in the current run of the denoiser."""

    def __init__(self, sensors: Sequence[GatedEdit]) -> None:
        self.sensors = sensors
        self._fired: Tensor | None = None
        self._aspect = 1.0

    def readers(self, pipe: Any) -> list[tuple[str, Reader]]:
        """(hookpoint, reader) of each sensor, and of the denoiser's input for the shape of the picture."""
        root = family_of(pipe).root + INPUT
        return [(root, self._start), *((s.hookpoint, partial(self.look, s)) for s in self.sensors)]

    def _start(self, step: Step, sample: Tensor, source: Tensor | None) -> None:
        """Forget the previous run of the denoiser."""
        del step, source
        self._aspect = sample.shape[-2] / sample.shape[-1] if sample.ndim == 4 else 1.0
        self._fired = None

    def look(self, sensor: GatedEdit, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Record where a sensor fires in a module's output."""
        del source
        fires = sensor.fires(step, output)
        if not len(fires):
            return
        shape = output.shape[2:] if output.ndim == 4 else grid(fires.shape[1], self._aspect)
        found, before = fires.reshape(len(fires), *shape), self._fired
        if before is not None and len(before) == len(found):
            # Sensors may read maps of different sizes; the larger keeps the detail.
            size = max(tuple(before.shape[1:]), tuple(found.shape[1:]))
            found = resized(found, *size) | resized(before, *size)
        self._fired = found

    def fired(self, height: int, width: int) -> Tensor | None:
        """Positions at which sensors fired, bool [images, height, width]; None if nowhere."""
        if self._fired is None or not bool(self._fired.any()):
            return None
        return resized(self._fired, height, width)

    def grid(self, positions: int) -> tuple[int, int]:
        """(height, width) of a sequence of positions of the picture."""
        return grid(positions, self._aspect)


def grid(positions: int, aspect: float) -> tuple[int, int]:
    """(height, width) with this many positions, and height / width nearest to `aspect`."""
    heights = [h for h in range(1, positions + 1) if positions % h == 0]
    height = min(heights, key=lambda h: abs(h * h - positions * aspect))
    return height, positions // height


def resized(fired: Tensor, height: int, width: int) -> Tensor:
    """bool [B, h, w] resized to bool [B, height, width]: a position is on if any part of it was."""
    if tuple(fired.shape[1:]) == (height, width):
        return fired
    return F.adaptive_max_pool2d(fired[:, None].float(), (height, width))[:, 0] > 0


def rows_of(fired: Tensor, output: Tensor) -> Tensor:
    """[B, h, w] in a shape that broadcasts to a map [B, D, h, w] or a sequence [B, h w, D]."""
    return fired[:, None] if output.ndim == 4 else fired.flatten(1)[..., None]


def positions_of(output: Tensor) -> int:
    """Number of positions of a module's output."""
    return to_rows(output).shape[1]
