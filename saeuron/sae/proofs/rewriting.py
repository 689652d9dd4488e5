"""Other activations in a hookpoint's place while the model runs, in the half of the batch that sees the prompt."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from saeuron.hooks import Step, attached, from_rows, to_rows

Change = Callable[[Tensor, int], Tensor]
"""Other rows, float32 [n, P, D], for the rows [n, P, D] that the prompt's half has at a timestep."""


class Rewritten:
    """Rewrites one hookpoint; what is left as it was is the same to the bit."""

    def __init__(self, hookpoint: str, change: Change, read: Literal["output", "update"] = "output") -> None:
        self.hookpoint, self.change, self.read = hookpoint, change, read
        self._source: Tensor | None = None

    def attached(self, pipe: Any) -> AbstractContextManager[Step]:
        """A context in which the hookpoint is rewritten."""
        return attached(pipe, readers={self.hookpoint: self._remember}, editors={self.hookpoint: [self._rewrite]})

    def _remember(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del step, output
        self._source = source

    @torch.no_grad()
    def _rewrite(self, step: Step, output: Tensor) -> Tensor:
        base = self._source if self.read == "update" else None
        rows = to_rows(output if base is None else output - base)
        first = len(rows) // 2 if step.guided else 0
        old = rows[first:].float()
        new = self.change(old, step.timestep)
        if torch.equal(new, old):
            return output
        changed = torch.cat([rows[:first], new.to(rows.dtype)])
        return from_rows(changed, output) + (0 if base is None else base)
