"""SAeUron's edit with the sign of its public implementation, only for comparison with published figures.

That implementation adds the reconstruction error as x_hat - x instead of x - x_hat, so that

    x' = sum_i f'_i W_dec[i] + b_dec + (x_hat - x) = x + 2 (x_hat - x) + sum_{i in F} (f'_i - f_i) W_dec[i]

and where no latent is edited the output is 2 x_hat - x, not x. It needs all N latents, which its file holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence, Settings
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.methods.saeuron import SAeUron, multiplier


@dataclass(frozen=True, eq=False)
class ParityEdit(LatentEdit):
    """A `LatentEdit` whose u latents are all N; those that no step selects have an infinite floor.

    Several concepts at one SAE are combined as those of `LatentEdit` are: they share one hook, and so one wrong sign.
    """

    kind: ClassVar[str] = "latents_parity"

    share: float = 1.0
    """Fraction of the wrong-sign term that is applied: the strength of the edit."""

    def scaled(self, strength: float) -> "ParityEdit":
        """The whole change, the wrong sign included, times `strength`."""
        return replace(self, factor=1 + strength * (self.factor - 1), share=strength * self.share)

    @classmethod
    def combined(cls, parts: Sequence["LatentEdit"]) -> tuple[list["LatentEdit"], dict[str, int]]:  # type: ignore[override]
        """See `combine`; the wrong-sign term is that of the SAE, once.

        Raises:
            ConfigError: the parts have different strengths, so that term would have two.
        """
        shares = {part.share for part in parts if isinstance(part, ParityEdit)}
        if len(shares) > 1:
            raise ConfigError(
                f"removals by saeuron_parity of the strengths {', '.join(f'{s:g}' for s in sorted(shares))} cannot be "
                "combined; give them the same strength."
            )
        return super().combined(parts)

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [..., D]: 2 (x_hat - x) and what the latents' change adds."""
        return super().delta(rows, timestep) + 2 * self.share * (self.encode(rows) @ self.W_dec + self.b_dec - rows)


class Parity(SAeUron):
    """SAeUron as in its public code. The settings are those of `saeuron`."""

    name = "saeuron_parity"
    like = "saeuron"

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[LatentEdit, ...]:
        """One edit for each hookpoint, with the whole SAE."""
        del learned
        return tuple(self._edit(evidence, hookpoint, settings) for hookpoint in evidence.saes)

    def _edit(self, evidence: Evidence, hookpoint: str, settings: Settings) -> ParityEdit:
        profile = evidence.profiles[hookpoint]
        chosen = self.selected(evidence, hookpoint, settings["n"])
        factor = multiplier(profile.mean, settings["gamma"], settings.get("scale", "mean"))
        whole = edit_latents(
            evidence.saes[hookpoint],
            profile.timesteps,
            torch.ones_like(chosen),
            torch.where(chosen, factor, 1.0),
            torch.where(chosen, profile.threshold, torch.inf),
            sae_id=evidence.sae_ids.get(hookpoint, ""),
            half=evidence.half,
        )
        return ParityEdit(**{field.name: getattr(whole, field.name) for field in fields(whole)})
