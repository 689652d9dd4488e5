"""SAeUron (2501.18052, section 4.3): multiply the latents of a concept by a negative multiple of their mean.

    f'_i = gamma mu(i,t,c) f_i   if i in F(c,t) and f_i > m(i,t), else f_i
    x'   = x + sum_{i in F} (f'_i - f_i) W_dec[i]

F(c,t) are the n latents with the highest score at step t. That is `scale: mean`, the paper's. With `scale: share`

    f'_i = gamma / p_i(t,c) f_i   where p_i = mu(i,t,c) / sum_j mu(j,t,c)

so that, averaged over the concept's rows, a latent is changed by about gamma times all activation together, whether it
fires rarely or often. Then one gamma suits many concepts. The paper's has to be searched over orders of magnitude,
because its change grows with the square of a latent's activation (docs/adr/0014).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.errors import ConfigError, UnknownName
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.profiles import Profile
from saeuron.sae.autoencoder import SAE
from saeuron.scoring import select, share

SCALES = ("mean", "share")
MIN_SHARE = 1e-3
"""Latents with less than this share of a concept's activation are not edited with `scale: share`."""


class SAeUron(Method):
    """The method of the paper. `n`: latents edited at each step; `gamma`: negative multiplier; `scale`: its unit."""

    name = "saeuron"
    needs = frozenset({"latents"})
    grid: ClassVar = {"n": (8, 16, 32), "gamma": (-1.0, -2.0, -4.0), "scale": ("mean",)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Few latents before many, small multipliers before large ones."""
        if name == "n":
            if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
                raise ConfigError(f"n holds {bad[0]!r}; a removal edits a whole number of latents, at least 1.")
            return sorted(values)
        if name == "scale":
            for value in values:
                if value not in SCALES:
                    raise UnknownName("scale of gamma", str(value), SCALES)
            return list(values)
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
                scale=settings.get("scale", "mean"),
            )
            for h in evidence.saes
        )

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """The n latents that are edited at each step, bool [T, N]: those with the highest score."""
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
    scale: str = "mean",
) -> LatentEdit:
    """The edit of one concept at one hookpoint: its n best latents at each step are multiplied, by gamma in `scale`.

    Args:
        selected: bool [T, N], latents to edit instead of the n best.
    """
    if selected is None:
        selected = best(profile, n)
    factor = multiplier(profile.mean, gamma, scale)
    return edit_latents(sae, profile.timesteps, selected, factor, profile.threshold, sae_id=sae_id, half=half)


def multiplier(mean: Tensor, gamma: float, scale: str) -> Tensor:
    """Multiplier of f_i, float32 [T, N], from mu [T, N]; see the head of this file."""
    if scale == "mean":
        return gamma * mean
    p = share(mean)
    return torch.where(p >= MIN_SHARE, gamma / p.clamp(min=MIN_SHARE), 1.0)
