"""Detect with an SAE and act on the predicted noise: undo the prompt's guidance where the concept's latents fire.

    e_c' = e_u - push (e_c - e_u)    at positions of the predicted noise where a latent of F(c,t) is above m(i,t)
    e_c' = e_c                       elsewhere

e_c and e_u are the predictions with and without the prompt. With `push` 0, e_u replaces e_c; above 0 the prompt is
negated there. Latents are only read, so nothing from the SAE's decoder enters the picture. A position of the noise is
masked if any part of it lies at a position that fires in this step. If none fires, the output is unchanged, bit for
bit. Needs guidance by a doubled batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.hooks import Step
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.detection.sensor import Memory, positions_of, rows_of, sensors, whole
from saeuron.methods.gates import GatedEdit
from saeuron.methods.parts import Hooked, Watch
from saeuron.pipelines import family_of


@dataclass(frozen=True, eq=False)
class GuidanceMask(Watch):
    """Replaces the prediction with the prompt where sensors fire."""

    kind: ClassVar[str] = "guidance_mask"

    sensors: tuple[GatedEdit, ...]
    amount: float
    """How many times e_c - e_u is subtracted: 1 + push."""

    @property
    def watched(self) -> tuple[GatedEdit, ...]:
        """Its sensors."""
        return self.sensors

    @property
    def needs_guidance(self) -> bool:
        """It takes guidance back."""
        return True

    def scaled(self, strength: float) -> "GuidanceMask":
        """The change times `strength`."""
        return replace(self, amount=strength * self.amount)

    @classmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """One mask for all parts: where several fire, the largest amount is used.

        Raises:
            ConfigError: the pipeline has no unconditional half.
        """
        family = family_of(pipe)
        if not family.doubles:
            raise ConfigError(
                f"{type(pipe).__name__} has no prediction without a prompt beside that with one, so sae_guidance "
                "cannot take guidance back; take another method."
            )
        seen = [(part, Memory(part.sensors)) for part in parts]
        readers = [reader for _, memory in seen for reader in memory.readers(pipe)]
        return Hooked(readers, [(family.root, _Masked(seen))])


class _Masked:
    """Changes the denoiser's output."""

    def __init__(self, seen: Sequence[tuple[GuidanceMask, Memory]]) -> None:
        self.seen = seen

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """The change, float32 of the output's shape, 0 for the unconditional half and where nothing fires; or None.

        Raises:
            ConfigError: the batch is not guided.
        """
        amount: Tensor | None = None
        for part, memory in self.seen:
            size = output.shape[2:] if output.ndim == 4 else memory.grid(positions_of(output))
            fired = memory.fired(*size)
            if fired is None:
                continue
            mine = rows_of(fired, output).float() * part.amount
            amount = mine if amount is None else torch.maximum(amount, mine)
        if amount is None:
            return None
        if not step.guided:
            raise ConfigError("sae_guidance needs guidance: give a guidance scale above 1, or take another method.")
        unconditional, conditional = output.float().chunk(2)
        change = torch.where(amount > 0, amount * (unconditional - conditional), 0.0)
        return torch.cat([torch.zeros_like(change), change])


class SAEGuidance(Method):
    """`n`: latents that detect the concept at each step; `push`: how far beyond no guidance to go."""

    name = "sae_guidance"
    needs = frozenset({"latents"})
    grid: ClassVar = {"n": (1, 2), "push": (0.0, 0.25)}

    def check(self, config: RunConfig) -> None:
        """Raise ConfigError for a run without guidance."""
        if config.model.guidance <= 1:
            raise ConfigError(
                f"sae_guidance needs guidance, and model.guidance is {config.model.guidance:g}; set it above 1."
            )

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        if name == "n":
            return whole(name, values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0]:
            raise ConfigError(f"push holds {bad[0]!r}; expected numbers from 0, which takes guidance back.")
        return sorted(map(float, values))

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[GuidanceMask, ...]:
        """One mask, from all hookpoints."""
        del learned
        return (GuidanceMask(sensors(evidence, settings["n"]), 1 + settings["push"]),)
