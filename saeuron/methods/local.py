"""Edits by hand: chosen latents turned off, scaled or on, at some steps and in a region of the picture.

    f'_i = factor_i f_i + offset_i
    x'   = x + sum_i (f'_i - f_i) W_dec[i]        where the region is painted and the step is one of those chosen

The explorer and notebooks make them; no method does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.errors import ConfigError
from saeuron.hooks import Step
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.methods.parts import Edit, Part
from saeuron.methods.removal import Removal, combine
from saeuron.sae.autoencoder import SAE


class Setting(NamedTuple):
    """Change of a latent: f' = factor f + offset. (0, 0): off; (1, 0): unchanged; (0, v): on, v at every position."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class Turned(LatentEdit):
    """Latents of one SAE, each multiplied and moved, at every timestep; u latents."""

    kind: ClassVar[str] = "turned"

    offset: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Added to f, float32 [u]."""

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [..., D]; exactly zero where a latent with offset 0 does not fire."""
        f = self.encode(rows)
        return ((self.factor[0] - 1) * f + self.offset) @ self.W_dec

    def scaled(self, strength: float) -> "Turned":
        """The change f' - f times `strength`."""
        return replace(self, factor=1 + strength * (self.factor - 1), offset=strength * self.offset)

    @classmethod
    def combined(cls, parts: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        """Not combined: their changes add up."""
        return list(parts), {}


def turned(sae: SAE, settings: Mapping[int, Setting], *, sae_id: str = "", half: Half = "both") -> Turned:
    """Some latents of an SAE turned off, scaled or on.

    Args:
        settings: {latent: its change}.

    Raises:
        ConfigError: the SAE lacks one of the latents, or none was named.
    """
    n = sae.info.n_latents
    if not settings:
        raise ConfigError("no latent was named; expected at least one.")
    for latent in settings:
        if not 0 <= latent < n:
            raise ConfigError(f"latent {latent}: this SAE has {n}; expected 0 to {n - 1}.")
    selected = torch.zeros(1, n, dtype=torch.bool)
    selected[0, list(settings)] = True
    factor = torch.ones(1, n)
    for latent, setting in settings.items():
        factor[0, latent] = setting.factor
    # One row for all timesteps: the nearest is taken.
    every, floor = torch.zeros(1, dtype=torch.int64), torch.zeros(1, n)
    edit = edit_latents(sae, every, selected, factor, floor, sae_id=sae_id, half=half)
    offset = torch.tensor([settings[int(i)].offset for i in edit.latents], dtype=torch.float32)
    return Turned(**vars(edit), offset=offset)


@dataclass(frozen=True, eq=False)
class Local(Edit):
    """Another edit, limited to some steps and a region of the picture. It cannot be saved."""

    inner: Edit
    first: int = 0
    """First step of a generation at which it acts, from 0. In a text encoder, which runs before, it always acts."""
    last: int | None = None
    """Last step at which it acts; None: to the end."""
    region: Tensor | None = None
    """Painted cells of the picture, bool [h, w]; None: everywhere. Ignored in a text encoder."""
    aspect: float = 1.0
    """Height over width of the picture, for modules whose positions are a sequence."""

    def to(self, device: torch.device | str) -> Self:
        region = None if self.region is None else self.region.to(device)
        return replace(self, inner=self.inner.to(device), region=region)

    def record(self) -> dict[str, Any]:
        """Refused. Raises ConfigError."""
        raise ConfigError("an edit in a region or at some steps cannot be saved; save the removal that it was made of.")

    def content(self) -> str:
        """A hash of the inner edit and its limits."""
        region = None if self.region is None else self.region.tolist()
        return " ".join(map(str, (self.inner.content(), self.first, self.last, self.aspect, region)))

    def scaled(self, strength: float) -> Self:
        """The inner edit at that strength."""
        return replace(self, inner=self.inner.scaled(strength))

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """The inner edit's change at every position; only `change` knows positions."""
        return self.inner.delta(rows, timestep)

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        if not step.in_text and not self.first <= step.index <= (math.inf if self.last is None else self.last):
            return None
        change = self.inner.change(step, output)
        if change is None or self.region is None or step.in_text:
            return change
        return change * self._mask(output).to(change)

    def _mask(self, output: Tensor) -> Tensor:
        """True at positions whose centre lies in a painted cell, in a shape that broadcasts to the output."""
        assert self.region is not None
        if output.ndim == 4:
            return _resized(self.region, *output.shape[2:])
        positions = output.shape[1] if output.ndim == 3 else 1
        height = round(math.sqrt(positions * self.aspect))
        if not height or positions % height:
            raise ConfigError(
                f"{self.hookpoint} gives {positions} positions, which do not form a map; paint no region."
            )
        return _resized(self.region, height, positions // height).reshape(positions, 1)


def _resized(region: Tensor, height: int, width: int) -> Tensor:
    """`region` at the centre of each of height x width positions, bool [height, width]."""
    rows, columns = (
        ((torch.arange(n, device=region.device) + 0.5) * of / n).long()
        for n, of in ((height, region.shape[0]), (width, region.shape[1]))
    )
    return region[rows][:, columns]


def local(
    removals: Sequence[Removal],
    *,
    first: int = 0,
    last: int | None = None,
    region: Tensor | None = None,
    aspect: float = 1.0,
) -> Removal:
    """One removal with the effect of all of these, at some steps and in a region of the picture.

    Without either limit it is `Removal.merge`, bit for bit. Calls, such as a negative prompt, have no limits.

    Raises:
        ConfigError: there are no removals.
    """
    merged = Removal.merge(removals)
    if first == 0 and last is None and region is None:
        return merged
    parts, _ = combine(merged.parts)
    limited: list[Part] = [
        Local(p.hookpoint, p.half, p, first, last, region, aspect) if isinstance(p, Edit) else p for p in parts
    ]
    return replace(merged, parts=tuple(limited))
