"""A supervised edit without an SAE: one direction per step, found from labels.

    m(t)  = mean of x over the target images at step t,  o(t) = mean over images of the other concepts,  d = m - o
    w(t)  = S^-1 d / (d . S^-1 d),   S(t) the mean of both sets' covariances, plus RIDGE of its mean variance
    a     = w . (x - o)              1 at the mean of the concept, 0 at that of the others
    x'    = x - strength a d         where a > 1/2, else x

w is Fisher's discriminant. Like an SAE's encoder it may differ from the direction that is subtracted, and it leaves
rows alone that do not look like the concept. Means and covariances are over all positions and images, in the
conditional half.

If most positions do not show the concept, as at the outputs of whole blocks, d is short and a large strength is needed;
this edit is then not an upper bound for others (docs/adr/0013). Memory: 16 T D^2 bytes for each hookpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.generation import Request
from saeuron.hooks import Step, to_rows
from saeuron.methods.base import Evidence, Method, Settings, above_zero
from saeuron.methods.parts import Edit, at_step
from saeuron.methods.steering import read
from saeuron.sae.autoencoder import check_width

RIDGE = 0.01
"""Added to the covariance, as a share of the mean variance: few images do not fill all directions."""
FLOOR = 0.5
"""Half-way between the two means."""


@dataclass(frozen=True, eq=False)
class ExcessEdit(Edit):
    """Subtract a row's component a along a direction where a > floor; T steps, D the width."""

    kind: ClassVar[str] = "excess"

    timesteps: Tensor
    """int64 [T], descending."""
    reader: Tensor
    """w, float32 [T, D]."""
    centre: Tensor
    """o, float32 [T, D]."""
    direction: Tensor
    """Added to a row with a = 1, float32 [T, D]."""
    floor: float
    """A row is edited where a is above this."""

    def scaled(self, strength: float) -> "ExcessEdit":
        """The direction times `strength`."""
        return replace(self, direction=strength * self.direction)

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """a times the direction where a > floor, float32 [..., D]; exactly zero elsewhere.

        Between two scored timesteps w, o and the direction are interpolated linearly.
        """
        check_width(self.direction.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        reader, centre, direction = (
            at_step(values, self.timesteps, timestep) for values in (self.reader, self.centre, self.direction)
        )
        a = (rows - centre) @ reader
        return torch.where(a > self.floor, a, 0.0)[..., None] * direction


@dataclass(frozen=True, eq=False)
class Discriminant:
    """w, o and d at one hookpoint; T steps, D the width."""

    timesteps: Tensor
    """int64 [T], descending."""
    reader: Tensor
    """w, float32 [T, D]."""
    centre: Tensor
    """o, float32 [T, D]."""
    difference: Tensor
    """d, float32 [T, D]."""


class Supervised(Method):
    """`strength`: how many times a d is subtracted; at 1 a row's a becomes that of the others' mean, 0."""

    name = "supervised"
    needs = frozenset({"activations"})
    grid: ClassVar = {"strength": (1.0, 2.0, 4.0, 16.0)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong; each above 0."""
        return above_zero(name, values)

    def learn(self, evidence: Evidence) -> dict[str, Discriminant]:
        """{hookpoint: its discriminant}."""
        target, others = (_moments(evidence, images) for images in (evidence.target, evidence.others))
        return {h: discriminant(target[h], others[h]) for h in evidence.hookpoints}

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[ExcessEdit, ...]:
        """One edit for each hookpoint."""
        return tuple(
            ExcessEdit(
                hookpoint,
                evidence.half,
                found.timesteps,
                found.reader,
                found.centre,
                -settings["strength"] * found.difference,
                FLOOR,
            )
            for hookpoint, found in learned.items()
        )


class Moments:
    """A reader that sums the rows of one hookpoint and their outer products at each step, in float64."""

    def __init__(self) -> None:
        self.images = 0
        self.count: dict[int, int] = {}
        self.sums: dict[int, Tensor] = {}
        self.products: dict[int, Tensor] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        self.add(step.timestep, to_rows(step.half(output, "conditional", self.images)).flatten(0, 1))

    def add(self, timestep: int, rows: Tensor) -> None:
        """Add rows [B, D] of a step."""
        x, t = rows.double(), timestep
        total, products = x.sum(0).cpu(), (x.T @ x).cpu()
        self.count[t] = self.count.get(t, 0) + len(x)
        self.sums[t] = self.sums[t] + total if t in self.sums else total
        self.products[t] = self.products[t] + products if t in self.products else products

    def mean(self, timestep: int) -> Tensor:
        """[D]."""
        return self.sums[timestep] / self.count[timestep]

    def covariance(self, timestep: int) -> Tensor:
        """[D, D]."""
        mean = self.mean(timestep)
        return self.products[timestep] / self.count[timestep] - torch.outer(mean, mean)


def discriminant(target: Moments, others: Moments) -> Discriminant:
    """Fisher's discriminant between two sets of rows at each step, from noise to image."""
    steps = sorted(target.sums, reverse=True)
    readers, centres, differences = [], [], []
    for t in steps:
        difference = target.mean(t) - others.mean(t)
        within = (target.covariance(t) + others.covariance(t)) / 2
        ridge = (RIDGE * within.diagonal().mean()).clamp(min=1e-12)
        reader = torch.linalg.solve(within + ridge * torch.eye(len(within), dtype=within.dtype), difference)
        readers.append(reader / (reader @ difference).clamp(min=1e-12))
        centres.append(others.mean(t))
        differences.append(difference)
    found = (torch.stack(each).float() for each in (readers, centres, differences))
    return Discriminant(torch.tensor(steps), *found)


def _moments(evidence: Evidence, images: Sequence[Request]) -> dict[str, Moments]:
    """{hookpoint: moments of the rows of some images}."""
    readers = {h: Moments() for h in evidence.hookpoints}
    read(evidence, images, readers)
    return readers
