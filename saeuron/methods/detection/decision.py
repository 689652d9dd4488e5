"""Decide by probes, at the first denoising step, whether an image is edited.

The denoiser runs unedited while probes read it. If one opens, the step is run again with edits, and so is the rest of
the generation. If none opens, nothing runs twice, and the image is the unedited one, bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saeuron.hooks import INPUT, Reader, Step
from saeuron.methods.detection.probe import Probe
from saeuron.methods.detection.prompt_probe import PromptProbe
from saeuron.pipelines import family_of


class Decision:
    """Decisions of one concept's probes about each image of the current generation."""

    def __init__(self, probes: Sequence[Probe | PromptProbe]) -> None:
        self.probes = probes
        self.asleep = False
        """If set, probes do not read."""
        self.silent = False
        """If set, `opened` is None: the denoiser runs unedited."""
        self.margins: list[Tensor] | None = None
        """Within `held`: margins of the probes that have read, float32 [images] each."""
        self._opened: Tensor | None = None

    @contextmanager
    def held(self) -> Iterator[list[Tensor]]:
        """A context for a denoising loop outside a pipeline that sets `silent` and `asleep`; decisions hold to its end.

        Yields:
            The margins of the probes that read, float32 [images] each, in [-1, 1]; a gate is open at 0 and above. They
            can be differentiated with respect to the denoiser's input.
        """
        self._opened, self.margins = None, []
        try:
            yield self.margins
        finally:
            self._opened, self.margins = None, None

    def begin(self) -> None:
        """Forget earlier decisions, and let probes read the unedited denoiser."""
        self._opened, self.asleep, self.silent = None, False, True

    def decided(self) -> None:
        """Stop reading, and apply the decisions."""
        self.asleep, self.silent = True, False

    def look(self, probe: Probe | PromptProbe, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Record for which images a probe opens."""
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
        """The images that are edited, bool [images]; None if there are none."""
        if self.silent or self._opened is None or not bool(self._opened.any()):
            return None
        return self._opened

    def readers(self) -> list[tuple[str, Reader]]:
        """(hookpoint, reader) of each probe."""
        return [(probe.hookpoint, partial(self.look, probe)) for probe in self.probes]


class First:
    """Hooks of the denoiser: start decisions with each generation, and run its first step again if one is open."""

    def __init__(self, decisions: Sequence[Decision], pipe: Any) -> None:
        self.decisions, self.pipe, self._generation = decisions, pipe, None
        self._now = False

    @property
    def root(self) -> str:
        """The denoiser's own name."""
        return family_of(self.pipe).root

    def readers(self) -> list[tuple[str, Reader]]:
        """(hookpoint, reader) at the denoiser's input."""
        return [(self.root + INPUT, self._begin)]

    def _begin(self, step: Step, sample: Tensor, source: Tensor | None) -> None:
        """Outside a pipeline's call every run of the denoiser is a first step, unless decisions are held."""
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
        """Change of the denoiser's output by edits of the first step, float32 of its shape; None if none is open."""
        if not self._now:
            return None
        self._now = False
        for decision in self._free:
            decision.decided()
        opened = [found for decision in self._free if (found := decision.opened) is not None]
        if not opened or step.call is None:
            return None
        module, args, kwargs = step.call
        # `forward`, not a call of the module: its hooks have run already and must not run twice.
        edited = family_of(self.pipe).stream(module, module.forward(*args, **kwargs))
        rows = rows_of(torch.stack(opened).any(0), step, output)
        return torch.where(rows, edited.float() - output.float(), 0.0)


def rows_of(opened: Tensor, step: Step, output: Tensor) -> Tensor:
    """bool [images] as [B, 1, ...], to broadcast to a batch; repeated for both halves of a guided one."""
    both = torch.cat([opened, opened]) if step.guided else opened
    return both.reshape(-1, *[1] * (output.ndim - 1))
