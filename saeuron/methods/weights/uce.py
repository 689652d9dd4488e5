"""UCE (2308.14761, equation 7): cross-attention reads the concept's words as others, in closed form.

    W' = argmin  erase mean |W' c - W c*|^2 + mean |W' x - W x|^2 + l |W' - W|^2    over c of the concept, x retained
       = W (erase C* + P + l) (erase C + P + l)^-1
    C* = mean c* c^T,  C = mean c c^T,  P = mean x x^T

c are the states of training prompts from the concept's last token on; c* those of the same sentences with other words.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.methods.text.states import FARTHEST
from saeuron.methods.weights.linear_map import LinearMap, Moments, ridge


class UCE(LinearMap):
    """UCE, with states of training prompts instead of single words."""

    name = "uce"
    # Of a hundred objects 0.1 already takes others along (docs/log.md, 2026-11-29).
    grid: ClassVar[dict[str, Sequence[Any]]] = {"erase": (0.03, 0.1), "toward": (FARTHEST,)}

    def change(self, found: Moments, erase: float) -> Tensor:
        """erase (C* - C) (erase C + P + l)^-1."""
        all_ = erase * found.concept + found.retained + ridge(found.retained)
        change: Tensor = torch.linalg.solve(all_, erase * (found.moved - found.concept).T).T
        return change
