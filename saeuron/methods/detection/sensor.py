"""Which latents tell a concept, and what they saw within a generation.

A sensor is a `GatedEdit` that is only asked, never applied: by position it fires where a latent is above its floor, by
image where its gate is open, decided on the conditional half. Sensors see a module's output before edits of that
module, but after those of earlier ones. So what acts on what they see may hide the concept from them: `keeps`, a place
that has fired stays on to the end of the generation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from saeuron.errors import ConfigError, UnknownName
from saeuron.hooks import INPUT, Reader, Step, to_rows
from saeuron.methods.base import Evidence
from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.latents import edit_latents
from saeuron.methods.saeuron import best
from saeuron.pipelines import family_of

Where = Literal["image", "position"]
WHERE: tuple[Where, ...] = get_args(Where)


Select = Callable[[Evidence, str, int], Tensor]
"""Which n latents of a hookpoint tell a concept, bool [T, N]."""


def highest(evidence: Evidence, hookpoint: str, n: int) -> Tensor:
    """The n latents with the highest score at each step, bool [T, N]."""
    return best(evidence.profiles[hookpoint], n)


def sensors(evidence: Evidence, n: int, select: Select = highest) -> tuple[GatedEdit, ...]:
    """A sensor for each hookpoint: n latents at each step, and their floors m(i,t)."""
    found = []
    for hookpoint, sae in evidence.saes.items():
        about = evidence.profiles[hookpoint]
        edit = edit_latents(
            sae,
            about.timesteps,
            select(evidence, hookpoint, n),
            torch.zeros_like(about.mean),
            about.threshold,
            sae_id=evidence.sae_ids.get(hookpoint, ""),
            half="conditional",
        )
        found.append(gated(edit, "scaled"))
    return tuple(found)


def check_where(values: Sequence[Any]) -> list[Any]:
    """The values of a setting, each `image` or `position`.

    Raises:
        UnknownName: one is neither.
    """
    for value in values:
        if value not in WHERE:
            raise UnknownName("gate", str(value), WHERE)
    return list(values)


def whole(name: str, values: Sequence[Any]) -> list[int]:
    """Whole numbers of latents, few before many.

    Raises:
        ConfigError: one is none, or below 1.
    """
    if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
        raise ConfigError(f"{name} holds {bad[0]!r}; expected whole numbers of latents, at least 1.")
    return sorted(values)


class Memory:
    """What the sensors of one concept saw in the generation that runs."""

    def __init__(self, sensors: Sequence[GatedEdit], where: Where, keeps: bool, ahead: int = -1) -> None:
        self.sensors, self.where, self.keeps, self.ahead = sensors, where, keeps, ahead
        self.asleep = False
        """Whether nothing is looked at."""
        self.silent = False
        """Whether nothing is told: the denoiser runs unedited."""
        self._fired: Tensor | None = None
        self._generation: Any = None
        self._aspect = 1.0
        self._margins: list[Tensor] | None = None

    @contextmanager
    def held(self) -> Iterator[list[Tensor]]:
        """For a loop of one's own: what fires stays on from one run of the denoiser to the next.

        Yields:
            The margins of gates that are looked at, float32 [images] each, in [-1, 1]: at 0 and above it is open. A
            gradient reaches what the denoiser was given. By position there are none.
        """
        self._fired, self._margins = None, []
        try:
            yield self._margins
        finally:
            self._fired, self._margins = None, None

    def readers(self, pipe: Any) -> list[tuple[str, Reader]]:
        """What looks on: at each sensor's hookpoint, and at the denoiser's input for the shape of the picture."""
        root = family_of(pipe).root + INPUT
        return [(root, self._start), *((s.hookpoint, _Look(self, s)) for s in self.sensors)]

    def _start(self, step: Step, sample: Tensor, source: Tensor | None) -> None:
        """At the start of a run of the denoiser: forget what was of another generation, or is not kept."""
        del source
        self._aspect = sample.shape[-2] / sample.shape[-1] if sample.ndim == 4 else 1.0
        lasting = step.generation is not None and step.generation is self._generation
        if self._margins is None and not (self.keeps and lasting):
            self._fired = None
        self._generation = step.generation

    def look(self, sensor: GatedEdit, step: Step, output: Tensor) -> None:
        """Note where a sensor fires in a module's output."""
        if self.asleep:
            return
        found = self._seen(sensor, step, output)
        if not len(found):
            return
        if self._margins is not None and self.where == "image":
            self._margins.append(sensor.margin(step, output))
        before = self._fired
        if before is not None and len(before) == len(found):
            # Sensors at maps of several sizes: on the larger of them.
            size = max(tuple(before.shape[1:]), tuple(found.shape[1:]))
            found = resized(found, *size) | resized(before, *size)
        self._fired = found

    def _seen(self, sensor: GatedEdit, step: Step, output: Tensor) -> Tensor:
        """bool [images, h, w] of the conditional half; [images, 1, 1] by image."""
        if self.where == "image":
            return sensor.opened(step, output)[:, None, None]
        fires = sensor.fires(step, output)
        shape = output.shape[2:] if output.ndim == 4 else grid(fires.shape[1], self._aspect)
        return fires.reshape(len(fires), *shape)

    def fired(self, height: int, width: int) -> Tensor | None:
        """Where it fired, bool [images, height, width]; None where nothing has."""
        if self.silent or self._fired is None or not bool(self._fired.any()):
            return None
        return resized(self._fired, height, width)

    def grid(self, positions: int) -> tuple[int, int]:
        """(height, width) of a sequence of positions of the picture."""
        return grid(positions, self._aspect)


class _Look:
    """Reads one hookpoint for one sensor."""

    def __init__(self, memory: Memory, sensor: GatedEdit) -> None:
        self.memory, self.sensor = memory, sensor

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        self.memory.look(self.sensor, step, output)


def grid(positions: int, aspect: float) -> tuple[int, int]:
    """(height, width) of so many positions, height over width as near to `aspect` as can be."""
    heights = [h for h in range(1, positions + 1) if positions % h == 0]
    height = min(heights, key=lambda h: abs(h * h - positions * aspect))
    return height, positions // height


def resized(fired: Tensor, height: int, width: int) -> Tensor:
    """bool [B, height, width] of bool [B, h, w]: a place is on if any part of it is."""
    if tuple(fired.shape[1:]) == (height, width):
        return fired
    return F.adaptive_max_pool2d(fired[:, None].float(), (height, width))[:, 0] > 0


def both(fired: Tensor, step: Step) -> Tensor:
    """The places of each row of a batch: those of the images, twice where the batch is guided."""
    return torch.cat([fired, fired]) if step.guided else fired


def rows_of(fired: Tensor, output: Tensor) -> Tensor:
    """[B, h, w] in a shape that multiplies a map [B, D, h, w] or a sequence [B, h w, D]."""
    return fired[:, None] if output.ndim == 4 else fired.flatten(1)[..., None]


def positions_of(output: Tensor) -> int:
    """Number of positions of a module's output."""
    return to_rows(output).shape[1]
