"""Subtract the positive part of cross-attention outputs along a concept's direction; without an SAE.

    v(t) = d(t) / |d(t)|     d(t) as for steering: a difference of means, at step t
    x'   = x - beta max(0, x . v(t)) v(t)     at every position of every cross-attention's output

At beta 1 a row has no positive component along v left, at 2 it is mirrored. A row without one is not changed. After
CASteer, of which only a description was read: it averages over fewer pictures, and restores the length of x', which is
not done here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from saeuron.errors import ConfigError
from saeuron.hooks import hookpoints
from saeuron.methods.base import Evidence, Settings, above_zero
from saeuron.methods.parts import Edit, at_step
from saeuron.methods.steering import Steering
from saeuron.pipelines import family_of
from saeuron.sae.autoencoder import check_width


@dataclass(frozen=True, eq=False)
class ClippedEdit(Edit):
    """Subtract the positive part of a projection; T steps, D the width."""

    kind: ClassVar[str] = "clipped"

    timesteps: Tensor
    """int64 [T], descending."""
    direction: Tensor
    """v, of unit length or zero, float32 [T, D]."""
    beta: float

    def scaled(self, strength: float) -> "ClippedEdit":
        """beta times `strength`."""
        return replace(self, beta=strength * self.beta)

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """-beta max(0, x . v) v, float32 [..., D]; v is interpolated between scored steps, to unit length."""
        check_width(self.direction.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        v = functional.normalize(at_step(self.direction, self.timesteps, timestep), dim=0)
        return -self.beta * (rows @ v).clamp(min=0)[..., None] * v


class ClippedSteering(Steering):
    """`beta`: how many times the positive projection is subtracted."""

    name = "clipped_steering"
    grid: ClassVar = {"beta": (1.0, 2.0, 4.0)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong; each above 0."""
        return above_zero(name, values)

    def learn(self, evidence: Evidence) -> dict[str, tuple[Tensor, Tensor]]:
        """{cross-attention: (timesteps int64 [T], v float32 [T, D])}; the domain's hookpoints are not used.

        Raises:
            ConfigError: the denoiser has no cross-attention of its own.
        """
        family = family_of(evidence.pipe)
        found = tuple(
            path
            for path in hookpoints(evidence.pipe)
            if path.startswith(f"{family.root}.") and path.endswith(family.text_enters)
        )
        if not found:
            raise ConfigError(
                f"{type(evidence.pipe).__name__} has no modules of cross-attention ({family.text_enters}); "
                "take steering, which edits the hookpoints of the configuration."
            )
        means = super().learn(replace(evidence, hookpoints=found))
        return {h: (t, d / d.norm(dim=1, keepdim=True).clamp(min=1e-12)) for h, (t, d) in means.items()}

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One edit for each cross-attention."""
        return tuple(
            ClippedEdit(hookpoint, evidence.half, timesteps, direction, settings["beta"])
            for hookpoint, (timesteps, direction) in learned.items()
        )
