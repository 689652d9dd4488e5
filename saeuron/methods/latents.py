"""Edit some latents of an SAE in a module's output (2501.18052, section 4.3).

    f'_i = factor(i,t) f_i   if f_i > floor(i,t), else f_i
    x'   = x + sum_i (f'_i - f_i) W_dec[i]

If the SAE's activation has fixed thresholds, only the rows of the edited latents are needed, and a removal is a file
of kilobytes. Where no latent is above its floor, x' equals x bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.methods.parts import Edit, neighbours
from saeuron.sae.autoencoder import SAE, check_width
from saeuron.sae.selection import Activation, activate


@dataclass(frozen=True, eq=False)
class LatentEdit(Edit):
    """Latents of one SAE, multiplied where they fire. T steps, u latents (all that any step selects), D the width.

    For an SAE with thresholds, `W_enc` holds only the u rows. If latents are compared with one another, as by per-row
    TopK, it holds all N rows, and `latents` says which are the u.
    """

    kind: ClassVar[str] = "latents"

    sae_id: str
    timesteps: Tensor
    """int64 [T], in any order."""
    latents: Tensor
    """int64 [u], ascending: indices into the SAE."""
    factor: Tensor
    """Multiplier of f_i, such as gamma mu(i,t,c), float32 [T, u]; 1 where step t does not select the latent."""
    floor: Tensor
    """A latent is edited above this, such as m(i,t), float32 [T, u]; infinite where step t does not select it."""
    W_enc: Tensor
    """float32 [u, D], or [N, D] if not `alone`."""
    b_enc: Tensor
    """float32 [u], or [N] if not `alone`."""
    W_dec: Tensor
    """float32 [u, D]."""
    b_dec: Tensor
    """float32 [D]."""
    threshold: Tensor
    """Theta of each latent, float32 [u]."""
    activation: Activation = "threshold"
    """Activation function of the SAE at inference."""
    k: int = 0
    """k of a topk SAE."""

    def scaled(self, strength: float) -> "LatentEdit":
        """The change f' - f times `strength`, which is another factor: 1 + strength (factor - 1)."""
        return replace(self, factor=1 + strength * (self.factor - 1))

    def encode(self, rows: Tensor) -> Tensor:
        """f of the u latents, float32 [..., u] of rows [..., D]."""
        x_bar = rows - self.b_dec
        pre = x_bar @ self.W_enc.T + self.b_enc
        f = activate(pre, self.activation, k=self.k, threshold=self.threshold, x_bar=x_bar)
        return f if self.alone else f[..., self.latents]

    @property
    def alone(self) -> bool:
        """Whether the u latents can be computed without the others, so that `W_enc` holds only their rows."""
        return self.activation == "threshold"

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [..., D]; exactly zero where no latent is above its floor."""
        check_width(self.W_dec.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        f = self.encode(rows)
        factor, floor = self.at(timestep)
        change = torch.where(f > floor, (factor - 1) * f, 0.0)
        return change @ self.W_dec

    def at(self, timestep: int) -> tuple[Tensor, Tensor]:
        """(factor, floor) of the u latents at a timestep, float32 [u] each.

        Between two scored timesteps they are interpolated linearly. A latent that only one of the two selects takes
        that one's values, so that it is edited as much and not half as much (measured: docs/log.md, 2026-11-29).
        """
        return self.mixed(self.factor, timestep), self.mixed(self.floor, timestep)

    def mixed(self, values: Tensor, timestep: int) -> Tensor:
        """`values`, float32 [T, u], at a timestep, float32 [u]; see `at`."""
        a, b, weight = neighbours(self.timesteps, timestep)
        if a == b:
            return values[a]
        of_a, of_b = torch.isfinite(self.floor[a]), torch.isfinite(self.floor[b])
        between = torch.lerp(values[a], values[b], weight)
        return torch.where(of_a & of_b, between, torch.where(of_a, values[a], values[b]))

    @classmethod
    def combined(cls, parts: Sequence["LatentEdit"]) -> tuple[list["LatentEdit"], dict[str, int]]:
        """See `combine`."""
        return combine(parts)


def edit_latents(
    sae: SAE,
    timesteps: Tensor,
    selected: Tensor,
    factor: Tensor,
    floor: Tensor,
    *,
    sae_id: str = "",
    half: Half = "both",
) -> LatentEdit:
    """The edit of some latents of an SAE at each of T steps; N latents in all.

    Args:
        timesteps: int64 [T], descending.
        selected: bool [T, N], the latents to edit.
        factor: [T, N], the multiplier of f_i.
        floor: [T, N]; f_i is edited where it is above this.
    """
    latents = selected.any(0).nonzero().flatten()
    chosen, info = selected[:, latents], sae.info
    rows = latents if info.activation == "threshold" else torch.arange(info.n_latents)
    # Copies, so that an edit does not change when its SAE is trained on.
    weights = {name: value.detach().cpu().float().clone() for name, value in sae.state_dict().items()}
    return LatentEdit(
        hookpoint=info.hookpoint,
        half=half,
        sae_id=sae_id,
        timesteps=timesteps,
        latents=latents,
        factor=torch.where(chosen, factor[:, latents], 1.0).float(),
        floor=torch.where(chosen, floor[:, latents], torch.inf).float(),
        W_enc=weights["W_enc"][rows],
        b_enc=weights["b_enc"][rows],
        W_dec=weights["W_dec"][latents],
        b_dec=weights["b_dec"],
        threshold=weights["threshold"][latents],
        activation=info.activation,
        k=info.k,
    )


def combine(edits: Sequence[LatentEdit]) -> tuple[list[LatentEdit], dict[str, int]]:
    """Combine edits of several concepts: those at one hookpoint and half by the same SAE become one edit.

    If several edits select a latent at a step, the factor of larger magnitude is used, with the floor of that edit; of
    equal magnitudes the positive factor, then the lower floor. So the order of the edits does not matter. Edits that
    were scored at different timesteps are combined at every timestep, each with its own interpolated values. SAEs are
    identified by their id, or by their b_dec if they have none.

    Returns:
        (edits, {sae id or hookpoint: number of (step, latent) pairs that were in more than one set}).
    """
    groups: dict[tuple[str, str, str], list[LatentEdit]] = {}
    for edit in edits:
        sae = edit.sae_id or edit.b_dec.cpu().numpy().tobytes().hex()
        groups.setdefault((edit.hookpoint, sae, edit.half), []).append(edit)
    merged, overlap = [], {}
    for group in groups.values():
        if len(group) == 1:
            merged += group
            continue
        group = _aligned(group)
        first = group[0]
        latents = torch.cat([e.latents for e in group]).unique(sorted=True)
        shape = (len(first.timesteps), len(latents))
        factor, floor = torch.ones(shape), torch.full(shape, torch.inf)
        W_dec = first.W_dec.new_zeros(len(latents), first.W_dec.shape[1])
        threshold = first.threshold.new_zeros(len(latents))
        W_enc = torch.zeros_like(W_dec) if first.alone else first.W_enc
        b_enc = first.b_enc.new_zeros(len(latents)) if first.alone else first.b_enc
        shared = 0
        for e in group:
            at = torch.searchsorted(latents, e.latents)
            W_dec[at], threshold[at] = e.W_dec, e.threshold
            if first.alone:
                W_enc[at], b_enc[at] = e.W_enc, e.b_enc
            selects, taken = torch.isfinite(e.floor), torch.isfinite(floor[:, at])
            shared += int((selects & taken).sum())
            stronger = selects & (~taken | _stronger(e.factor, e.floor, factor[:, at], floor[:, at]))
            factor[:, at] = torch.where(stronger, e.factor, factor[:, at])
            floor[:, at] = torch.where(stronger, e.floor, floor[:, at])
        overlap[first.sae_id or first.hookpoint] = shared
        merged.append(
            replace(
                first,
                latents=latents,
                factor=factor,
                floor=floor,
                W_enc=W_enc,
                b_enc=b_enc,
                W_dec=W_dec,
                threshold=threshold,
            )
        )
    return merged, overlap


def _stronger(factor: Tensor, floor: Tensor, known: Tensor, known_floor: Tensor) -> Tensor:
    """Whether an edit's (factor, floor) takes precedence over the known one, bool of their shape; a strict order."""
    same, equal = factor.abs() == known.abs(), factor == known
    by_sign = ~equal & (factor > known)
    return (factor.abs() > known.abs()) | (same & (by_sign | (equal & (floor < known_floor))))


def _aligned(edits: list[LatentEdit]) -> list[LatentEdit]:
    """The same edits on common timesteps: their own if they share them, else every integer in their range."""
    if all(torch.equal(e.timesteps, edits[0].timesteps) for e in edits):
        return edits
    known = torch.cat([e.timesteps for e in edits])
    every = torch.arange(int(known.max()), int(known.min()) - 1, -1, device=known.device)
    found = []
    for e in edits:
        factors, floors = zip(*(e.at(int(t)) for t in every), strict=True)
        found.append(replace(e, timesteps=every, factor=torch.stack(factors), floor=torch.stack(floors)))
    return found
