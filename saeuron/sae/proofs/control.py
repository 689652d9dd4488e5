"""Test 2 of an SAE: a few latents moved, so that the model draws another concept (2405.08366, section 5).

To go from concept v to v' at a timestep, at most k latents that fire under v are taken away, and at most k that fire
under v' are added, with their mean over images of v'. They are chosen one by one, each the one that brings the mean
row under v nearest to the mean row under v'. With labels the edit is x - u_v + u_v'. The whole output of the other
prompt in the hookpoint's place is what any edit there can reach; where it moves few pictures, no edit says anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.noise import initial_noise
from saeuron.sae.autoencoder import SAE
from saeuron.sae.proofs.attributes import Attributes, Kind
from saeuron.sae.proofs.rewriting import Change, Rewritten
from saeuron.sae.proofs.rows import Rows


class Wanted(NamedTuple):
    """A picture that is to show `to` in place of `concept`."""

    text: str
    concept: str
    to: str
    other: str
    """The sentence that asks for `to`."""


class Moved(NamedTuple):
    """Latents taken away and added, in the order in which they were chosen."""

    off: list[int]
    on: list[int]


class Profiles(NamedTuple):
    """Means of a domain's concepts under one dictionary, at S timesteps."""

    sae: SAE
    timesteps: tuple[int, ...]
    latents: Mapping[str, Tensor]
    """{concept: mean activation, float32 [S, N]}."""
    rows: Mapping[str, Tensor]
    """{concept: mean row, float32 [S, D]}."""

    def step(self, timestep: int) -> int:
        """The timestep that is nearest."""
        return min(range(len(self.timesteps)), key=lambda s: abs(self.timesteps[s] - timestep))


@torch.no_grad()
def profiles(sae: SAE, rows: Rows, domain: str) -> Profiles:
    """Means of latents and rows over the images and positions of each concept."""
    latents, means = {}, {}
    device = sae.W_enc.device
    for concept in rows.concepts(domain):
        own = rows.values[rows.shows(domain, concept)]
        f = [sae.encode(image.float().to(device)).mean(1).cpu() for image in own]
        latents[concept], means[concept] = torch.stack(f).mean(0), own.float().mean((0, 2))
    return Profiles(sae, rows.timesteps, latents, means)


def greedy(off: Tensor, on: Tensor, W_dec: Tensor, difference: Tensor, k: int) -> Moved:
    """The latents that bring one mean row nearest to another, at most k of each kind.

    Args:
        off, on: mean activations under v and v', [N]; those that are 0 are not candidates.
        W_dec: (N, D). difference: mean row under v' minus that under v, [D].
    """
    moved, rest = Moved([], []), difference.double()
    candidates = torch.cat([-off.double()[:, None] * W_dec.double(), on.double()[:, None] * W_dec.double()])
    n = len(off)
    open_ = torch.cat([off != 0, on != 0])
    for _ in range(2 * k):
        allowed = open_.clone()
        allowed[:n] &= len(moved.off) < k
        allowed[n:] &= len(moved.on) < k
        # |rest - c|^2 - |rest|^2 of each candidate c.
        change = candidates.square().sum(1) - 2 * candidates @ rest
        change[~allowed] = torch.inf
        best = int(change.argmin())
        if change[best] >= 0:
            break
        (moved.off if best < n else moved.on).append(best % n)
        open_[best], rest = False, rest - candidates[best]
    return moved


class Moves:
    """The edit with at most k latents of each kind; those of two concepts are worked out once for each timestep."""

    def __init__(self, profiles: Profiles, k: int) -> None:
        self.profiles, self.k = profiles, k
        self._W_dec = profiles.sae.W_dec.detach().float().cpu()
        self._known: dict[tuple[str, str, int], Moved] = {}

    def of(self, concept: str, to: str, step: int) -> Moved:
        """The latents that are moved at one of the S timesteps."""
        key = concept, to, step
        if key not in self._known:
            off, on = (self.profiles.latents[c][step] for c in (concept, to))
            difference = self.profiles.rows[to][step] - self.profiles.rows[concept][step]
            self._known[key] = greedy(off, on, self._W_dec, difference, self.k)
        return self._known[key]

    def change(self, wanted: Sequence[Wanted]) -> Change:
        """The edit of the rows of some pictures."""
        sae = self.profiles.sae

        def change(rows: Tensor, timestep: int) -> Tensor:
            step, f, new = self.profiles.step(timestep), sae.encode(rows), rows.clone()
            for i, w in enumerate(wanted):
                moved, means = self.of(w.concept, w.to, step), self.profiles.latents[w.to][step].to(rows)
                new[i] -= f[i][:, moved.off] @ sae.W_dec[moved.off]
                new[i] += means[moved.on] @ sae.W_dec[moved.on]
            return new

        return change

    def magnitude(self, wanted: Sequence[Wanted]) -> float:
        """Share of the mean reconstruction that the latents taken away hold, the mean over pairs and timesteps.

        sum_i (f_i W_dec[i]) . (x_hat - b_dec) / |x_hat - b_dec|^2, of means over the images of v.
        """
        found = []
        for concept, to in {(w.concept, w.to) for w in wanted}:
            for step in range(len(self.profiles.timesteps)):
                f, moved = self.profiles.latents[concept][step], self.of(concept, to, step)
                whole, part = f @ self._W_dec, f[moved.off] @ self._W_dec[moved.off]
                found.append(float(part @ whole / whole.square().sum().clamp(min=1e-12)))
        return float(np.mean(found))


def by_labels(attributes: Attributes, domain: str, wanted: Sequence[Wanted], kind: Kind) -> Change:
    """x - u_v + u_v'."""

    def change(rows: Tensor, timestep: int) -> Tensor:
        moves = [
            attributes.u(domain, w.to, timestep, kind) - attributes.u(domain, w.concept, timestep, kind) for w in wanted
        ]
        return rows + torch.stack(moves).to(rows)

    return change


def draw(
    pipe: Any,
    wanted: Sequence[Wanted],
    hookpoint: str,
    change: Change | Literal["copy"] | None,
    model: ModelConfig,
    seed: int,
    read: Literal["output", "update"] = "output",
) -> NDArray[np.uint8]:
    """Pictures of sentences whose hookpoint is edited, uint8 [n, H, W, 3].

    Args:
        change: for the rows of all `wanted`; `copy`: the output of the other sentence, drawn beside it from the same
            noise; None: nothing.
    """
    n = len(wanted)
    copies = change == "copy"
    texts = [w.text for w in wanted] + ([w.other for w in wanted] if copies else [])
    noise = initial_noise(seed, [(w.text, i) for i, w in enumerate(wanted)], latent_shape(pipe, model))

    def copied(rows: Tensor, timestep: int) -> Tensor:
        del timestep
        return torch.cat([rows[n:], rows[n:]])

    edit = copied if copies else change
    if edit is None or edit == "copy":
        return sample(pipe, texts, noise, model)
    with Rewritten(hookpoint, edit, read).attached(pipe):
        return sample(pipe, texts, torch.cat([noise, noise]) if copies else noise, model)[:n]
