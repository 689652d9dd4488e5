"""Closed-form edits of cross-attention: keys and values read the concept's words as others.

Cross-attention's keys and values are linear in the text states x [D]. A change W' = W M of all of them is one map M of
the states, the same for every layer, and is found from moments of states alone; no image is generated.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.hooks import hookpoints
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.removal import Removal
from saeuron.methods.text.states import BATCH, FARTHEST, OTHERS, counterparts, embeddings, farthest, pairs
from saeuron.methods.weights.part import WeightMap, factors

RANK = 64
"""Rank of the map, at most; at the width of Stable Diffusion 1.5 a removal is 0.4 MB."""
RIDGE = 1e-3
"""Added to the diagonal of the retained states' second moments, as a share of its mean: few prompts do not span all
directions."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of text states, float64 [D, D], each a mean over states."""

    concept: Tensor
    """c c^T of the concept's states."""
    moved: Tensor
    """c* c^T; c* is the state as which c should be read."""
    retained: Tensor
    """x x^T of the states that stay: those of prompts for other concepts, and of the empty prompt."""


class LinearMap(Method):
    """`erase`: weight of the concept's states relative to those that stay; `toward`: the word as which the concept is
    read; `others`: the mean of the other concepts; `farthest`: the concept least like it.
    """

    needs = frozenset({"prompts"})
    grid: ClassVar = {"erase": (0.1, 1.0), "toward": (OTHERS,)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        if name == "toward":
            if bad := [v for v in values if not isinstance(v, str)]:
                raise ConfigError(f"toward holds {bad[0]!r}; expected a word, {OTHERS!r} or {FARTHEST!r}.")
            return list(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0]:
            raise ConfigError(f"{name} holds {bad[0]!r}; expected numbers above 0.")
        return sorted(map(float, values))

    def learn(self, evidence: Evidence) -> dict[str, Moments]:
        """{toward: moments}, filled by `parts` when needed."""
        del evidence
        return {}

    def parts(self, evidence: Evidence, learned: dict[str, Moments], settings: Settings) -> tuple[WeightMap, ...]:
        """One map, of the keys and values of all cross-attentions."""
        toward = settings["toward"]
        if toward not in learned:
            learned[toward] = moments(evidence, toward)
        change = self.change(learned[toward], settings["erase"])
        return (WeightMap(cross_attention(evidence.pipe), *factors(change, RANK)),)

    def removal(
        self, evidence: Evidence, learned: Any, settings: Settings, provenance: Mapping[str, Any] | None = None
    ) -> Removal:
        """See `Method.removal`; in its settings, `farthest` is replaced by the concept's name."""
        toward = farthest(evidence) if settings["toward"] == FARTHEST else settings["toward"]
        return super().removal(evidence, learned, {**settings, "toward": toward}, provenance)

    @abstractmethod
    def change(self, found: Moments, erase: float) -> Tensor:
        """M - I, float64 [D, D]: a state x is read as M x."""


def moments(evidence: Evidence, toward: str) -> Moments:
    """The moments of a concept's states and of those that stay."""
    concept, moved, count = None, None, 0
    for mine, other in pairs(evidence.pipe, counterparts(evidence, toward)):
        c, c_new = mine.double(), other.double()
        concept = c.T @ c + (0 if concept is None else concept)
        moved = c_new.T @ c + (0 if moved is None else moved)
        count += len(c)
    assert concept is not None and moved is not None
    # The empty prompt has half of the weight, because guidance starts from it in every image.
    retained = (_second(evidence.pipe, [""]) + _second(evidence.pipe, [p.text for p in evidence.retained])) / 2
    return Moments(concept / count, moved / count, retained)


def _second(pipe: Any, texts: Sequence[str]) -> Tensor:
    """The second moment of all states of prompts, float64 [D, D]."""
    total, count = torch.zeros(()), 0
    for start in range(0, len(texts), BATCH):
        x = embeddings(pipe, texts[start : start + BATCH]).double().flatten(0, 1)
        total, count = total + x.T @ x, count + len(x)
    return total / count


def ridge(second: Tensor) -> Tensor:
    """RIDGE times the mean of its diagonal, on the diagonal, [D, D]."""
    return RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)


def cross_attention(pipe: Any) -> tuple[str, ...]:
    """The layers that make keys and values of text.

    Raises:
        ConfigError: the denoiser has no layers of the names that diffusers gives them.
    """
    found = [path for path in hookpoints(pipe) if path.split(".")[-2:] in (["attn2", "to_k"], ["attn2", "to_v"])]
    if not found:
        raise ConfigError(
            f"{type(pipe).__name__} has no cross-attention (attn2.to_k, attn2.to_v); take a method that "
            "edits activations."
        )
    return tuple(found)
