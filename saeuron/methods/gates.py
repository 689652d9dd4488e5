"""One edit of latents, with four tiers and a gate (2505.14536, whose third tier is per token, here per position).

    x' = x + g delta,   F the selected latents, v_i(t) a number for each, first: positions before it are left alone

    tier           delta                          where
    constant       sum_F v_i W_dec[i]             everywhere
    per_input      the same                       everywhere in an image with some f_i > floor_i at some position
    per_position   of the latents with f_i > floor_i, v_i W_dec[i]
    scaled         of these, (factor_i - 1) f_i W_dec[i]                       SAeUron's own edit
    replaced       of these, (v_i - f_i) W_dec[i]

g is 1 or 0 for a whole image (in a text encoder, a prompt): G >= tau(t), where G is the greatest sum_F f_i over
positions (`activation`), or the mean over positions of |delta|^2 (`change`). It is decided on the conditional half, for
both. Where g is 0 for a whole batch, nothing is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from saeuron.hooks import Step, to_rows
from saeuron.methods.latents import LatentEdit
from saeuron.methods.parts import Margin, at_step, relative
from saeuron.sae.autoencoder import check_width

Tier = Literal["constant", "per_input", "per_position", "scaled", "replaced"]
Gate = Literal["none", "activation", "change"]


@dataclass(frozen=True, eq=False)
class GatedEdit(LatentEdit):
    """An edit of latents, see the head of this file; T steps, u latents."""

    kind: ClassVar[str] = "gated_latents"

    tier: Tier = "scaled"
    values: Tensor | None = None
    """v_i(t), float32 [T, u]; None for the tier `scaled`."""
    first: int = 0
    """Positions before this one are left alone."""
    gate: Gate = "none"
    tau: Tensor | None = None
    """Threshold of G, float32 [T]; None without a gate."""

    @property
    def margin(self) -> Margin | None:
        """(G - tau) / (G + tau)."""
        if self.gate == "none" or self.tau is None:
            return None
        tau = self.tau
        return lambda rows, timestep: relative(self.gated(rows, timestep)[1], at_step(tau, self.timesteps, timestep))

    def scaled(self, strength: float) -> "GatedEdit":
        """delta times `strength`. Which images the gate lets through stays the same: tau is scaled where G depends on
        delta.
        """
        changed = replace(self, W_dec=strength * self.W_dec)
        if self.gate == "change" and self.tau is not None:
            changed = replace(changed, tau=strength**2 * self.tau)
        return changed

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """delta without its gate, float32 [B, P, D]; exactly zero where no latent is above its floor."""
        return self.gated(rows, timestep)[0]

    def gated(self, rows: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        """(delta [B, P, D], G [B]) of rows [B, P, D]."""
        check_width(self.W_dec.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        f = self.encode(rows)
        factor, floor = self.at(timestep)
        selected = torch.isfinite(floor)
        over = f > floor
        if self.first:
            after = torch.arange(rows.shape[-2], device=rows.device)[:, None] >= self.first
            f, over = torch.where(after, f, 0.0), over & after
        change = self._change(f, over, selected, factor, self.valued(timestep))
        if self.first:
            change = torch.where(after, change, 0.0)
        delta = change @ self.W_dec
        if self.gate == "change":
            return delta, delta.square().sum(-1).mean(-1)
        return delta, torch.where(selected, f, 0.0).sum(-1).amax(-1)

    def valued(self, timestep: int) -> Tensor | None:
        """v_i at a timestep, float32 [u], interpolated as factors are (`LatentEdit.at`); None without values."""
        return None if self.values is None else self.mixed(self.values, timestep)

    def _change(self, f: Tensor, over: Tensor, selected: Tensor, factor: Tensor, v: Tensor | None) -> Tensor:
        """f' - f of the u latents [..., P, u]."""
        if self.tier == "scaled" or v is None:
            return torch.where(over, (factor - 1) * f, 0.0)
        match self.tier:
            case "replaced":
                return torch.where(over, v - f, 0.0)
            case "per_position":
                return torch.where(over, v, 0.0)
        everywhere = torch.where(selected, v, 0.0).expand_as(f)
        if self.tier == "per_input":
            return torch.where(over.any(-1, keepdim=True).any(-2, keepdim=True), everywhere, 0.0)
        return everywhere

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """See `Edit.change`; None if the gate is closed for every image."""
        if self.gate == "none":
            return super().change(step, output)
        opened = self.opened(step, output)
        if not len(opened) or not bool(opened.any()):
            return None
        change = super().change(step, output)
        if change is None:
            return None
        if len(opened) != len(change):
            opened = torch.cat([opened, opened])
        return torch.where(opened.reshape(-1, *[1] * (change.ndim - 1)), change, 0.0)

    def opened(self, step: Step, output: Tensor) -> Tensor:
        """Whether the gate is open for each image, bool [images]; decided on the conditional half alone."""
        rows = to_rows(step.half(output, "conditional")).float()
        if not len(rows) or self.tau is None:
            return torch.zeros(0, dtype=torch.bool, device=output.device)
        if step.timesteps is None:
            return self.open_at(rows, step.timestep)
        each = step.half(step.timesteps, "conditional").tolist()
        return torch.cat([self.open_at(row[None], int(t)) for row, t in zip(rows, each, strict=True)])

    def open_at(self, rows: Tensor, timestep: int) -> Tensor:
        """G >= tau, bool [B] of rows [B, P, D]."""
        assert self.tau is not None
        return self.gated(rows, timestep)[1] >= at_step(self.tau, self.timesteps, timestep)

    def fires(self, step: Step, output: Tensor) -> Tensor:
        """Whether any latent is above its floor, bool [images, P], in the conditional half."""
        rows = to_rows(step.half(output, "conditional")).float()
        f, timesteps = self.encode(rows), step.timesteps
        if timesteps is None:
            return (f > self.at(step.timestep)[1]).any(-1)
        each = step.half(timesteps, "conditional").tolist()
        return torch.stack([(row > self.at(int(t))[1]).any(-1) for row, t in zip(f, each, strict=True)])

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:  # type: ignore[override]
        """Not combined: each keeps its own gate, and their changes add up."""
        return list(parts), {}


def gated(
    edit: LatentEdit,
    tier: Tier,
    values: Tensor | None = None,
    *,
    first: int = 0,
    gate: Gate = "none",
    tau: Tensor | None = None,
) -> GatedEdit:
    """An edit of latents with a tier and a gate.

    Args:
        values: v_i(t), [T, u] of the edit's latents.
        tau: [T].
    """
    own = {f.name: getattr(edit, f.name) for f in fields(LatentEdit)}
    return GatedEdit(
        **own, tier=tier, values=None if values is None else values.float(), first=first, gate=gate, tau=tau
    )
