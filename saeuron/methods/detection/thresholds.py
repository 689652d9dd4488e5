"""How high a concept's latents reach in images without it: the threshold of a gate by image.

    G(b,t) = max over positions of sum_{i in F} f_i        tau(t) = the 99 % quantile of G over retained images

The retained images are training images of the other concepts (`tune.learning_images` of them), so that neither
validation nor test images are looked at. With fewer than a hundred, the quantile is near their greatest. Where no
latent of F fires in any of them, tau is the least number above 0: an image in which nothing fires is not let through.
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
LEAST = torch.finfo(torch.float32).tiny


class Heights:
    """Reads one hookpoint: G of every image at each timestep."""

    def __init__(self, edit: GatedEdit) -> None:
        self.edit, self.images = edit, 0
        self.found: dict[int, list[Tensor]] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        rows = to_rows(step.half(output, "conditional", self.images)).float()
        self.found.setdefault(step.timestep, []).append(self.edit.gated(rows, step.timestep)[1].cpu())

    def quantile(self, share: float) -> Tensor:
        """float32 [T], at the edit's timesteps; infinite at one that was not read."""
        return torch.stack(
            [
                torch.cat(self.found[t]).quantile(share).clamp(min=LEAST)
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
