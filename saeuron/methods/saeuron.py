"""SAeUron (2501.18052, section 4.3): multiply the latents of a concept by a negative multiple of their mean.

    f'_i = gamma mu(i,t,c) f_i   if i in F(c,t) and f_i > m(i,t), else f_i
    x'   = x + sum_{i in F} (f'_i - f_i) W_dec[i]

F(c,t) are the n latents with the highest score at step t.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.profiles import Profile
from saeuron.sae.autoencoder import SAE
from saeuron.scoring import select


class SAeUron(Method):
    """The method of the paper. `n`: latents edited at each step; `gamma`: the negative multiplier."""

    name = "saeuron"
    needs = frozenset({"latents"})
    grid: ClassVar = {"n": (8, 16, 32), "gamma": (-1.0, -2.0, -4.0)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Few latents before many, small multipliers before large ones."""
        if name == "n":
            if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
                raise ConfigError(f"n holds {bad[0]!r}; a removal edits a whole number of latents, at least 1.")
            return sorted(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v >= 0]:
            raise ConfigError(f"gamma holds {bad[0]!r}; the multiplier of an edited latent is negative.")
        return sorted(map(float, values), reverse=True)

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[LatentEdit, ...]:
        """One edit for each hookpoint."""
        del learned
        return tuple(
            build_edit(
                evidence.saes[h],
                evidence.profiles[h],
                settings["n"],
                settings["gamma"],
                sae_id=evidence.sae_ids.get(h, ""),
                half=evidence.half,
                selected=self.selected(evidence, h, settings["n"]),
            )
            for h in evidence.saes
        )

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """Which n latents are edited at each step, bool [T, N]: those with the highest score."""
        return best(evidence.profiles[hookpoint], n)


def best(profile: Profile, n: int) -> Tensor:
    """F: the n latents with the highest score at each step, bool [T, N]."""
    return torch.zeros(profile.score.shape, dtype=torch.bool).scatter(1, select(profile.score, n), True)


def build_edit(
    sae: SAE,
    profile: Profile,
    n: int,
    gamma: float,
    *,
    sae_id: str = "",
    half: Half = "both",
    selected: Tensor | None = None,
) -> LatentEdit:
    """The edit of one concept at one hookpoint: its n best latents of each step, multiplied by gamma mu.

    `selected`, bool [T, N], names other latents than the n best.
    """
    if selected is None:
        selected = best(profile, n)
    return edit_latents(
        sae, profile.timesteps, selected, gamma * profile.mean, profile.threshold, sae_id=sae_id, half=half
    )
