"""Decide at the first denoising step whether an image is edited, by what probes see there.

The denoiser runs unedited, and probes look. Where one opens, the same step is run again, edited, and so is the rest of
the generation. Where none does, nothing runs twice, and the image is the unedited one, bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saeuron.hooks import INPUT, Reader, Step
from saeuron.methods.detection.probe import Probe
from saeuron.pipelines import family_of


class Decision:
    """What the probes of one concept said of each image of the generation that runs."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes
        self.asleep = False
        """Whether nothing is looked at."""
        self.silent = False
        """Whether nothing is told: the denoiser runs unedited."""
        self.margins: list[Tensor] | None = None
        self._opened: Tensor | None = None

    @contextmanager
    def held(self) -> Iterator[list[Tensor]]:
        """For a loop of one's own, which sets `silent` and `asleep`: what was decided holds to the end.

        Yields:
            The margins of the probes that look, float32 [images] each, in [-1, 1]: at 0 and above it is open. A
            gradient reaches what the denoiser was given.
        """
        self._opened, self.margins = None, []
        try:
            yield self.margins
        finally:
            self._opened, self.margins = None, None

    def begin(self) -> None:
        """Forget what was decided, and look."""
        self._opened, self.asleep, self.silent = None, False, True

    def decided(self) -> None:
        """Look no more; what was decided counts."""
        self.asleep, self.silent = True, False

    def look(self, probe: Probe, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Note for which images a probe opens."""
        del source
        seen = step.half(output, "conditional")
        if self.asleep or not len(seen):
            return
        if self.margins is not None:
            self.margins.append(probe.margin(seen))
        opens = probe.height(seen) >= 0
        self._opened = opens if self._opened is None else self._opened | opens

    @property
    def opened(self) -> Tensor | None:
        """For which images it is open, bool [images]; None where for none."""
        if self.silent or self._opened is None or not bool(self._opened.any()):
            return None
        return self._opened

    def readers(self) -> list[tuple[str, Reader]]:
        """What looks: at each probe's hookpoint."""
        return [(probe.hookpoint, partial(self.look, probe)) for probe in self.probes]


class First:
    """At the denoiser: begins decisions with a generation, and runs its first step again where one is open."""

    def __init__(self, decisions: Sequence[Decision], pipe: Any) -> None:
        self.decisions, self.pipe, self._generation = decisions, pipe, None
        self._now = False

    @property
    def root(self) -> str:
        """The denoiser's own name."""
        return family_of(self.pipe).root

    def readers(self) -> list[tuple[str, Reader]]:
        """What looks: at the denoiser's input."""
        return [(self.root + INPUT, self._begin)]

    def _begin(self, step: Step, sample: Tensor, source: Tensor | None) -> None:
        """In a loop of one's own every run of the denoiser is a first step, but where decisions are held."""
        del sample, source
        loop = step.generation is None
        self._now = loop or step.generation is not self._generation
        self._generation = step.generation
        if self._now:
            for decision in self._free:
                decision.begin()

    @property
    def _free(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.margins is None]

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """What editing this step adds to the denoiser's output, float32 in its shape; None where nothing is open."""
        if not self._now:
            return None
        self._now = False
        for decision in self._free:
            decision.decided()
        opened = [found for decision in self._free if (found := decision.opened) is not None]
        if not opened or step.call is None:
            return None
        module, args, kwargs = step.call
        # Not a call of the module: its own hooks have run.
        edited = family_of(self.pipe).stream(module, module.forward(*args, **kwargs))
        rows = rows_of(torch.stack(opened).any(0), step, output)
        return torch.where(rows, edited.float() - output.float(), 0.0)


def rows_of(opened: Tensor, step: Step, output: Tensor) -> Tensor:
    """bool [images] as [B, 1, ...], to multiply a batch with: twice where it is guided."""
    both = torch.cat([opened, opened]) if step.guided else opened
    return both.reshape(-1, *[1] * (output.ndim - 1))
