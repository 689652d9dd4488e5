"""Project a concept's direction out of the text states of prompts that ask for it; nothing is trained.

    y    = W (x - o)                     a token's state from o, the mean of those that stay; W makes these white
    g(p) = max over tokens of cos(y, W u)         u = the mean over prompts that ask for c - o
    x'   = x - strength U^T U (x - o)             at every token of a prompt with g(p) >= tau;   U = u / |u|

x are the states that the denoiser reads; those that stay are training prompts for other concepts, and the empty one.
tau lies half-way between the smallest g of training prompts that ask for c and the greatest g of those that stay; if
these overlap, it is that smallest g. The first token and the unconditional half are left alone. A prompt that is not
edited gives the same image, bit for bit.

Where several concepts fire in one prompt, the rows of U are an orthonormal basis of all their directions, and o is the
mean of theirs.

After Semantic Surgery, of which only a description was read: it pools states, uses the plain cosine, and a sigmoid
instead of a threshold. docs/adr/0017 says why this differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.hooks import hookpoints
from saeuron.methods.base import Evidence, Method, Settings, above_zero
from saeuron.methods.parts import Edit, Margin, relative
from saeuron.methods.text.sae import FIRST
from saeuron.methods.text.states import BATCH, embeddings, rows
from saeuron.pipelines import family_of
from saeuron.sae.autoencoder import check_width

RANK = 64
"""Principal directions of the covariance that W uses, at most; all others get the same scale. At the width of Stable
Diffusion 1.5 a removal is 0.2 MB."""
RIDGE = 0.1
"""Added to the covariance, as a share of its mean variance."""
SAME = 1e-4
"""A singular value below this share of the greatest gives no row of U."""
STACKED = ("centre", "concept", "main", "scales", "tau", "direction")


@dataclass(frozen=True, eq=False)
class SemanticGate(Edit):
    """Project the directions of those of C concepts out of a prompt that it asks for."""

    kind: ClassVar[str] = "semantic_gate"

    centre: Tensor
    """o, float32 [C, D]."""
    concept: Tensor
    """W u, of unit length, float32 [C, D]."""
    main: Tensor
    """Main directions of the covariance, float32 [C, r, D]; rows of zeros where there are fewer."""
    scales: Tensor
    """Scales of W: of all directions, then what is added for each main direction, float32 [C, 1 + r]."""
    tau: Tensor
    """float32 [C]."""
    direction: Tensor
    """u, of unit length, float32 [C, D]."""
    strength: float

    @property
    def margin(self) -> Margin:
        """(g - tau) / (|g| + tau) of the concept whose gate is open the farthest."""
        return lambda rows, timestep: relative(self.cosines(rows), self.tau).amax(-1)

    def scaled(self, strength: float) -> Self:
        """The change times `strength`; the gates stay as they are."""
        return replace(self, strength=strength * self.strength)

    def cosines(self, rows: Tensor) -> Tensor:
        """g, float32 [B, C] of rows [B, L, D]."""
        y = rows[:, None, FIRST:] - self.centre[:, None]
        y = self.scales[:, :1, None] * y + ((y @ self.main.mT) * self.scales[:, None, 1:]) @ self.main
        along = (y @ self.concept[..., None]).squeeze(-1)
        return (along / y.norm(dim=-1).clamp(min=1e-12)).amax(-1)

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [B, L, D]; exactly zero for a prompt at which no gate opens."""
        del timestep
        check_width(self.centre.shape[1], rows.shape[-1], f"the removal at {self.hookpoint}")
        delta = torch.zeros_like(rows)
        # One by one: the bits of a prompt do not depend on its neighbours.
        for b in range(len(rows)):
            opened = (self.cosines(rows[b : b + 1]) >= self.tau)[0]
            if opened.any():
                basis, centre = span(self.direction[opened]), self.centre[opened].mean(0)
                delta[b, FIRST:] = -self.strength * ((rows[b, FIRST:] - centre) @ basis.mT) @ basis
        return delta

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """Edits of one hookpoint and strength become one, so that concepts that fire together share a basis U."""
        groups: dict[tuple[str, str, float], list[Self]] = {}
        for part in parts:
            for i in range(len(part.tau)):
                single: dict[str, Any] = {name: getattr(part, name)[i : i + 1] for name in STACKED}
                groups.setdefault((part.hookpoint, part.half, part.strength), []).append(replace(part, **single))
        # Whether some were merged before the others does not matter either.
        return [_stacked(sorted(group, key=lambda part: part.content())) for group in groups.values()], {}


def _stacked(parts: Sequence[Any]) -> Any:
    """One part with the concepts of all."""
    most = max(part.main.shape[1] for part in parts)
    padded = []
    for part in parts:
        lacking = most - part.main.shape[1]
        main = torch.cat([part.main, part.main.new_zeros(len(part.main), lacking, part.main.shape[2])], 1)
        scales = torch.cat([part.scales, part.scales.new_zeros(len(part.scales), lacking)], 1)
        padded.append(replace(part, main=main, scales=scales))
    joined: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in padded]) for name in STACKED}
    return replace(parts[0], **joined)


def span(vectors: Tensor) -> Tensor:
    """Orthonormal rows [k, D] that span the same as vectors [n, D]."""
    _, s, v = torch.linalg.svd(vectors, full_matrices=False)
    return v[s > SAME * s[0]]


class Semantic(Method):
    """`strength`: at 1 a prompt's component along the direction becomes the mean of prompts that stay."""

    name = "semantic_gate"
    needs = frozenset({"prompts"})
    grid: ClassVar = {"strength": (1.0, 2.0)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        return above_zero(name, values)

    def learn(self, evidence: Evidence) -> SemanticGate:
        """The edit with strength 1."""
        pipe = evidence.pipe
        hookpoint = told(pipe)
        asked = rows(pipe, [p.text for p in evidence.asked], hookpoint)
        return semantic_gate(hookpoint, asked, rows(pipe, ["", *(p.text for p in evidence.retained)], hookpoint))

    def parts(self, evidence: Evidence, learned: SemanticGate, settings: Settings) -> tuple[SemanticGate, ...]:
        """One edit of the text encoder."""
        del evidence
        return (replace(learned, strength=settings["strength"]),)


def semantic_gate(hookpoint: str, asked: Tensor, stay: Tensor) -> SemanticGate:
    """The edit with strength 1, from the states of prompts that ask for the concept, float32 [P, L, D], and of those
    that stay, [Q, L, D].
    """
    kept = stay[:, FIRST:].flatten(0, 1).double()
    centre = kept.mean(0)
    u = asked[:, FIRST:].flatten(0, 1).double().mean(0) - centre
    main, scales = whitening(torch.cov(kept.T, correction=0))
    white = scales[0] * u + (scales[1:] * (main @ u)) @ main
    made = (centre, white / white.norm(), main, scales, torch.zeros(()), u / u.norm())
    stacked = dict(zip(STACKED, (each.float()[None] for each in made), strict=True))
    edit = SemanticGate(hookpoint, "conditional", **stacked, strength=1.0)
    return replace(edit, tau=threshold(_cosines(edit, asked), _cosines(edit, stay))[None])


def whitening(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """(main directions [r, D], scales [1 + r]) of a covariance [D, D] and its ridge to the power -1/2."""
    ridge = (RIDGE * covariance.diagonal().mean()).clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    r = min(RANK, len(covariance) - 1)
    whole = (values[:-r].mean() + ridge) ** -0.5
    return vectors[:, -r:].T.contiguous(), torch.cat([whole[None], (values[-r:] + ridge) ** -0.5 - whole])


def threshold(asked: Tensor, stay: Tensor) -> Tensor:
    """tau, a scalar, of g over the prompts that ask for the concept and over those that do not."""
    least, greatest = asked.min(), stay.max()
    return (least + greatest) / 2 if least > greatest else least


def _cosines(edit: SemanticGate, states: Tensor) -> Tensor:
    return torch.cat([edit.cosines(states[i : i + BATCH])[:, 0] for i in range(0, len(states), BATCH)])


def told(pipe: Any) -> str:
    """The module whose output the denoiser reads: the last norm of the only text encoder.

    Raises:
        ConfigError: the denoiser reads something else.
    """
    root = family_of(pipe).text_roots[0]
    for path in hookpoints(pipe):
        if path.startswith(f"{root}.") and path.endswith(".final_layer_norm"):
            found, wanted = rows(pipe, ["a"], path), embeddings(pipe, ["a"])
            if found.shape == wanted.shape and torch.equal(found, wanted):
                return path
    raise ConfigError(
        f"{type(pipe).__name__} does not read the last states of one text encoder, which this method edits; take "
        "text_direction, or a method that changes weights."
    )
