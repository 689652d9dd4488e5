"""The mean of f at each position over each third of a generation, while it runs."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from saeuron.hooks import Step

THIRDS = 3
"""Parts of a generation; `saeuron.pages.contents.RANGES` names them."""


class Thirds:
    """Running sums over the steps of one micro-batch: one map for each third, not one for each step.

    Timesteps are split as `numpy.array_split` splits them, noisiest first, so later thirds may have one step less or,
    in a generation of fewer than three steps, none. A text encoder runs at no step: nothing is summed.
    """

    def __init__(self) -> None:
        self._timesteps: list[int] = []
        self._ends = np.zeros(0, dtype=int)
        self._sums: list[Tensor] = []
        self._calls: list[int] = []

    def add(self, step: Step, f: Tensor) -> None:
        """Add one call of the module.

        Args:
            step: of a pipeline's own loop, whose scheduler knows how many steps there are.
            f: [b, P, N]; kept, not copied.
        """
        if step.in_text:
            return
        if not self._timesteps:
            # Some schedulers name a timestep twice (PNDM, Heun), and profiles and scores count it once.
            steps = len({int(t) for t in step.generation.tolist()})
            self._ends = np.cumsum([len(part) for part in np.array_split(np.arange(steps), THIRDS)])
        if step.timestep not in self._timesteps:
            self._timesteps.append(step.timestep)
        third = int(np.searchsorted(self._ends, self._timesteps.index(step.timestep), side="right"))
        if third == len(self._sums):
            self._sums.append(f)
            self._calls.append(1)
            return
        # A new tensor, because the first f is kept elsewhere too, as the map of the largest activation.
        self._sums[third] = self._sums[third] + f
        self._calls[third] += 1

    def __len__(self) -> int:
        """Thirds that have a step."""
        return len(self._sums)

    def means(self) -> Iterator[Tensor]:
        """[b, P, N] of each third that has a step: the mean over its calls."""
        return (total / calls for total, calls in zip(self._sums, self._calls, strict=True))
