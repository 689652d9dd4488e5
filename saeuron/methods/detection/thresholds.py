"""Thresholds of a gate by image, from how strongly a concept's latents fire in images without it.

    G(b,t) = max over positions of sum_{i in F} f_i        tau(t) = the 99 % quantile of G over retained images

The retained images are training images of the other concepts (`tune.learning_images` of them): neither validation nor
test images are used. With fewer than a hundred, the quantile is near the maximum. If no latent of F fires in any of
them, tau is the smallest positive number, so that an image in which nothing fires does not pass.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saeuron.generation import Request
from saeuron.hooks import Step, to_rows
from saeuron.methods.base import Evidence
from saeuron.methods.gates import GatedEdit
from saeuron.methods.steering import read

QUANTILE = 0.99
MIN_TAU = torch.finfo(torch.float32).tiny


class Heights:
    """A reader of one hookpoint: G of every image at each timestep."""

    def __init__(self, edit: GatedEdit) -> None:
        self.edit, self.images = edit, 0
        self.found: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        rows = to_rows(step.half(output, "conditional", self.images)).float()
        self.found.setdefault(step.timestep, []).append(self.edit.gated(rows, step.timestep)[1].cpu())

    def quantile(self, share: float) -> Tensor:
        """Quantile of G over images, float32 [T] at the edit's timesteps; infinite at timesteps that were not read."""
        return torch.stack(
            [
                torch.cat(self.found[t]).quantile(share).clamp(min=MIN_TAU)
                if t in self.found
                else torch.tensor(torch.inf)
                for t in self.edit.timesteps.tolist()
            ]
        )


def with_thresholds(edits: Sequence[GatedEdit], evidence: Evidence, images: Sequence[Request]) -> tuple[GatedEdit, ...]:
    """The same edits with a gate by image, whose tau lets 1 % of these images through at each step."""
    readers = {edit.hookpoint: Heights(edit) for edit in edits}
    read(evidence, images, readers)
    taus = [readers[edit.hookpoint].quantile(QUANTILE) for edit in edits]
    return tuple(replace(edit, gate="activation", tau=tau) for edit, tau in zip(edits, taus, strict=True))
