"""Steering by a difference of means, without an SAE.

    d(t) = mean of x over the target images at step t - mean of x over images of the other concepts
    x'   = x - strength d(t)    at every position

Means are over all positions and images, of the conditional half (the tier 'constant' of 2505.14536).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.generation import Request, generate
from saeuron.hooks import Step, attached, to_rows
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.parts import Edit, at_step
from saeuron.sae.autoencoder import check_width
from saeuron.scoring import Counting, counting


@dataclass(frozen=True, eq=False)
class DirectionEdit(Edit):
    """Add a fixed direction at each step, the same at every position."""

    kind: ClassVar[str] = "direction"

    timesteps: Tensor
    """int64 [T], descending."""
    direction: Tensor
    """Added to every row, float32 [T, D]."""

    def scaled(self, strength: float) -> "DirectionEdit":
        """The direction times `strength`."""
        return replace(self, direction=strength * self.direction)

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """The direction at a timestep, float32 [..., D]; interpolated between scored ones."""
        check_width(self.direction.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        return at_step(self.direction, self.timesteps, timestep).expand_as(rows)


class Steering(Method):
    """`strength`: how many differences of means are subtracted."""

    name = "steering"
    needs = frozenset({"activations"})
    grid: ClassVar = {"strength": (0.5, 1.0, 2.0, 4.0)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong; each above 0."""
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0]:
            raise ConfigError(f"strength holds {bad[0]!r}; expected numbers above 0.")
        return sorted(map(float, values))

    def learn(self, evidence: Evidence) -> dict[str, tuple[Tensor, Tensor]]:
        """{hookpoint: (timesteps int64 [T], d float32 [T, D])}."""
        target, others = (_means(evidence, images) for images in (evidence.target, evidence.others))
        return {
            h: (torch.tensor([*target[h]]), torch.stack([target[h][t] - others[h][t] for t in target[h]]).float())
            for h in evidence.hookpoints
        }

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[DirectionEdit, ...]:
        """One edit for each hookpoint."""
        return tuple(
            DirectionEdit(hookpoint, evidence.half, timesteps, -settings["strength"] * difference)
            for hookpoint, (timesteps, difference) in learned.items()
        )


class _Mean:
    """Sums the rows of one hookpoint at each step; in float64, so that the order of images does not matter."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[int, tuple[Tensor, int]] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        rows = to_rows(step.half(output, "conditional", self.images)).double().flatten(0, 1)
        total, count = self.sums.get(step.timestep, (torch.zeros(rows.shape[1], dtype=torch.float64), 0))
        self.sums[step.timestep] = total + rows.sum(0).cpu(), count + len(rows)


def _means(evidence: Evidence, images: Sequence[Request]) -> dict[str, dict[int, Tensor]]:
    """{hookpoint: {timestep: mean row, float64 [D]}}, steps from noise to image."""
    readers = {h: _Mean() for h in evidence.hookpoints}
    read(evidence, images, readers)
    return {
        h: {t: total / count for t, (total, count) in sorted(reader.sums.items(), reverse=True)}
        for h, reader in readers.items()
    }


def read(evidence: Evidence, images: Sequence[Request], readers: Mapping[str, Counting]) -> None:
    """Generate images with {hookpoint: reader} attached."""
    begin = counting([*readers.values()])
    with attached(evidence.pipe, readers=readers):
        for _ in generate(evidence.pipe, images, evidence.model, evidence.seed, begin=begin):
            pass
