"""Remove a concept while images are generated (2501.18052, section 4.3).

    f'_i = gamma mu(i,t,c) f_i   if i in F(c,t) and f_i > m(i,t), else f_i
    x'   = x + sum_{i in F} (f'_i - f_i) W_dec[i]

Only the rows of F are needed where the activation has a fixed threshold, so a removal is a file of those rows. With
nothing to ablate x' is x, bit for bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.config import Half
from saeuron.errors import BadWeights
from saeuron.hooks import Step, attached, device_of, from_rows, to_rows
from saeuron.profiles import Profile
from saeuron.sae.autoencoder import SAE, check_width
from saeuron.sae.selection import Activation, activate
from saeuron.scoring import select

FORMAT = 2
"""1: one threshold for all latents, and the activation told by k alone."""


@dataclass(frozen=True, eq=False)
class Edit:
    """The edit of one hookpoint. T steps, u latents (all that any step selects), D the width.

    For an SAE with thresholds `W_enc` holds the u rows alone. Where latents are compared with one another, as by a
    per-row TopK, it holds all N, and `latents` says where the u are.
    """

    hookpoint: str
    sae_id: str
    half: Half
    timesteps: Tensor
    """int64 [T], descending."""
    latents: Tensor
    """int64 [u], ascending: indices into the SAE."""
    factor: Tensor
    """gamma * mu(i,t,c), float32 [T, u]; 1 where step t does not select the latent."""
    floor: Tensor
    """m(i,t), float32 [T, u]; infinite where step t does not select the latent."""
    W_enc: Tensor
    """float32 (u, D), or (N, D) where not `alone`."""
    b_enc: Tensor
    """float32 (u), or (N) where not `alone`."""
    W_dec: Tensor
    """float32 (u, D)."""
    b_dec: Tensor
    """float32 (D)."""
    threshold: Tensor
    """float32 (u): theta of each latent."""
    activation: Activation = "threshold"
    """What the SAE does at inference."""
    k: int = 0
    """k of a topk SAE."""

    def step_of(self, timestep: int) -> int:
        """The row of the nearest scored timestep; of two equally near, the noisier."""
        return int((self.timesteps - timestep).abs().argmin())

    def encode(self, rows: Tensor) -> Tensor:
        """F of the u latents, float32 [..., u] of rows [..., D]."""
        x_bar = rows - self.b_dec
        pre = x_bar @ self.W_enc.T + self.b_enc
        f = activate(pre, self.activation, k=self.k, threshold=self.threshold, x_bar=x_bar)
        return f if self.alone else f[..., self.latents]

    @property
    def alone(self) -> bool:
        """Whether its latents are computed alone: `W_enc` holds the u rows, not all N."""
        return self.activation == "threshold"

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """X' - x, float32 [..., D]; exactly zero where nothing is ablated."""
        check_width(self.W_dec.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        t = self.step_of(timestep)
        f = self.encode(rows)
        change = torch.where(f > self.floor[t], (self.factor[t] - 1) * f, 0.0)
        return change @ self.W_dec

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """What the edit adds to a module's output, float32 in its shape; None where its half is not there."""
        rows = to_rows(output)
        chosen = step.half(rows, self.half)
        if not len(chosen):
            return None
        delta = self.delta(chosen.float(), step.timestep)
        if len(chosen) != len(rows):
            whole = torch.zeros(rows.shape, dtype=delta.dtype, device=delta.device)
            n = len(rows) // 2
            whole[n:] = delta if self.half == "conditional" else 0
            whole[:n] = delta if self.half == "unconditional" else 0
            delta = whole
        return from_rows(delta, output)

    def __call__(self, step: Step, output: Tensor) -> Tensor | None:
        """The editor: see `saeuron.hooks`."""
        return _add([self], step, output)

    def to(self, device: torch.device | str) -> "Edit":
        """A copy with its tensors on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})


_FIELDS = ("hookpoint", "sae_id", "half", "activation", "k")
_TENSORS = ("timesteps", "latents", "factor", "floor", "W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def _add(edits: Sequence[Edit], step: Step, output: Tensor) -> Tensor | None:
    """The output with the changes of all edits, each computed on the output itself: their order does not matter."""
    changes = [c for edit in edits if (c := edit.change(step, output)) is not None]
    return output + sum(changes[1:], changes[0]).to(output.dtype) if changes else None


def build_edit(sae: SAE, profile: Profile, n: int, gamma: float, *, sae_id: str = "", half: Half = "both") -> Edit:
    """The edit of one concept at one hookpoint: its n best latents of each step, multiplied by gamma mu."""
    chosen = select(profile.score, n)
    latents = chosen.unique(sorted=True)
    selected = torch.zeros(profile.score.shape, dtype=torch.bool).scatter(1, chosen, True)[:, latents]
    factor = torch.where(selected, gamma * profile.mean[:, latents], 1.0)
    floor = torch.where(selected, profile.threshold[:, latents], torch.inf)
    info = sae.info
    rows = latents if info.activation == "threshold" else torch.arange(info.n_latents)
    # Copies: an edit must not change when its SAE does.
    weights = {name: value.detach().cpu().float().clone() for name, value in sae.state_dict().items()}
    return Edit(
        hookpoint=info.hookpoint,
        sae_id=sae_id,
        half=half,
        timesteps=profile.timesteps,
        latents=latents,
        factor=factor.float(),
        floor=floor.float(),
        W_enc=weights["W_enc"][rows],
        b_enc=weights["b_enc"][rows],
        W_dec=weights["W_dec"][latents],
        b_dec=weights["b_dec"],
        threshold=weights["threshold"][latents],
        activation=info.activation,
        k=info.k,
    )


@dataclass(frozen=True, eq=False)
class Removal:
    """What takes one concept out of a model: an edit per hookpoint, and where it came from."""

    concept: str
    domain: str
    edits: tuple[Edit, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """n, gamma, model id, the reference set's id and members: what this removal depends on."""

    @contextmanager
    def attached(self, pipe: Any) -> Iterator["Removal"]:
        """Generate without the concept for as long as the context lasts; any number of steps."""
        with removed(pipe, [self]):
            yield self

    def save(self, path: Path | str) -> None:
        """Write one safetensors file."""
        tensors: dict[str, Tensor] = {}
        records = []
        for i, edit in enumerate(self.edits):
            tensors |= {f"{i}.{name}": getattr(edit, name) for name in _TENSORS}
            records.append({name: getattr(edit, name) for name in _FIELDS})
        metadata = {
            "kind": "saeuron-removal",
            "format": FORMAT,
            "concept": self.concept,
            "domain": self.domain,
            "edits": records,
            "provenance": dict(self.provenance),
        }
        save_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "Removal":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            BadWeights: it is damaged, or not a removal, or of a newer format.
        """
        tensors, metadata = load_tensors(Path(path))
        if metadata.get("kind") != "saeuron-removal":
            raise BadWeights(f"{path} is not a removal; expected a file written by Removal.save or `saeuron run`.")
        if metadata["format"] > FORMAT:
            raise BadWeights(f"{path} has removal format {metadata['format']}, this version reads {FORMAT}; update it.")
        if metadata["format"] == 1:
            for i, record in enumerate(metadata["edits"]):
                record["activation"] = "topk" if record["k"] else "threshold"
                tensors[f"{i}.threshold"] = tensors[f"{i}.threshold"].expand(len(tensors[f"{i}.latents"])).clone()
        fields: list[dict[str, Any]] = [
            {name: record[name] for name in _FIELDS} | {name: tensors[f"{i}.{name}"] for name in _TENSORS}
            for i, record in enumerate(metadata["edits"])
        ]
        edits = tuple(Edit(**each) for each in fields)
        return cls(metadata["concept"], metadata["domain"], edits, metadata["provenance"])


def combine(edits: Sequence[Edit]) -> tuple[list[Edit], dict[str, int]]:
    """Edits of several concepts, those that share an SAE made one.

    A latent in two sets at a step takes the factor of larger magnitude, with that set's floor. Edits that were scored
    at different numbers of steps are combined at every timestep, each with the row that it would take there alone.
    SAEs are told apart by their id, unnamed ones by their b_dec.

    Returns:
        (edits, {sae id or hookpoint: number of (step, latent) pairs that were in more than one set}).
    """
    groups: dict[tuple[str, str, str], list[Edit]] = {}
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
            stronger = selects & (~taken | (e.factor.abs() > factor[:, at].abs()))
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


def _aligned(edits: list[Edit]) -> list[Edit]:
    """The same edits on the same timesteps: their own if they share them, else every one in their range."""
    if all(torch.equal(e.timesteps, edits[0].timesteps) for e in edits):
        return edits
    known = torch.cat([e.timesteps for e in edits])
    every = torch.arange(int(known.max()), int(known.min()) - 1, -1, device=known.device)
    rows = [torch.tensor([e.step_of(int(t)) for t in every], device=known.device) for e in edits]
    return [replace(e, timesteps=every, factor=e.factor[r], floor=e.floor[r]) for e, r in zip(edits, rows, strict=True)]


@contextmanager
def removed(pipe: Any, removals: Sequence[Removal]) -> Iterator[dict[str, int]]:
    """Generate without several concepts at once; yields the overlap of their latents, see `combine`.

    Edits by different SAEs at one hookpoint add up.
    """
    edits, overlap = combine([e for r in removals for e in r.edits])
    device = device_of(pipe)
    editors: dict[str, list[Edit]] = {}
    for edit in edits:
        editors.setdefault(edit.hookpoint, []).append(edit.to(device))
    with attached(pipe, editors={path: [partial(_add, group)] for path, group in editors.items()}):
        yield overlap
