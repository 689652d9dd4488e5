"""Subtract a concept's direction from a text encoder's states, in every prompt.

u  = mean of x at the last token over prompts that ask for c - mean over prompts that ask for others
x' = x - strength u      at every token but the first, of the conditional half
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.text.sae import FIRST
from saeuron.methods.text.states import layer, rows


@dataclass(frozen=True, eq=False)
class TokenDirection(DirectionEdit):
    """Add a direction at every token but the first."""

    kind: ClassVar[str] = "token_direction"

    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """The direction, and zero for the first token, float32 [B, L, D]."""
        after = torch.arange(rows.shape[-2], device=rows.device)[:, None] >= FIRST
        return torch.where(after, super().delta(rows, timestep), 0.0)


class TextDirection(Method):
    """`strength`: how many times u is subtracted; `layer`: of the text encoder, negative numbers from the last."""

    name = "text_direction"
    needs = frozenset({"prompts"})
    grid: ClassVar = {"strength": (1.0, 2.0, 4.0), "layer": (-1,)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        whole = name == "layer"
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int if whole else (int, float))]:
            raise ConfigError(f"{name} holds {bad[0]!r}; expected {'whole ' if whole else ''}numbers.")
        if whole:
            return list(values)
        if bad := [v for v in values if v <= 0]:
            raise ConfigError(f"strength holds {bad[0]!r}; expected numbers above 0.")
        return sorted(map(float, values))

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[TokenDirection, ...]:
        """One edit of the text encoder."""
        del learned
        hookpoint = layer(evidence.pipe, settings["layer"])
        asked, others = (
            rows(evidence.pipe, [p.text for p in part], hookpoint)[:, -1].double().mean(0)
            for part in (evidence.asked, evidence.retained)
        )
        direction = -settings["strength"] * (asked - others).float()
        return (TokenDirection(hookpoint, "conditional", torch.tensor([-1]), direction[None]),)
