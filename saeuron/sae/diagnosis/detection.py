"""How well one latent tells the images of a concept from others, and how well its controls do.

    A_i(image) = mean over steps of max over positions of f_i
    a latent names a concept on the images where A_i >= theta

For each concept the latent and theta with the highest F1 are chosen on one set of images, and judged on another: chosen
and judged on the same images, some latent of thousands always looks good.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.generation import Request
from saeuron.hooks import Step, to_rows

Encoder = Callable[[Tensor], Tensor]
"""Activations [..., N] of rows [..., D]: an SAE's `encode`, or a control of it."""
_CHUNK = 64
"""Latents compared at once: bounds the memory, [images, latents, concepts]."""


class Detection(NamedTuple):
    """The latent that names a concept best, and how well it does on images that it was not chosen on."""

    concept: str
    latent: int | None
    """None: no latent fires on the images that it would be chosen on."""
    threshold: float
    """theta, in units of A_i."""
    precision: float
    """Share of the images that it names that ask for the concept; 0 if it names none."""
    recall: float
    """Share of the images that ask for the concept that it names."""
    f1: float
    auroc: float
    """Probability that A_i is larger on an image of the concept than on another; ties count half."""
    positives: int
    """Judged images that ask for the concept."""
    images: int
    """Judged images."""


class Strengths:
    """Reads one hookpoint with several dictionaries at once; see `saeuron.hooks`.

    Call `start` before a micro-batch is generated and `take` after it.
    """

    def __init__(self, encoders: Mapping[str, Encoder], half: Half = "conditional", read: str = "output") -> None:
        self.encoders, self.half, self.read = encoders, half, read
        self._images, self._steps = 0, 0
        self._sums: dict[str, Tensor] = {}
        self._done: dict[str, list[Tensor]] = {name: [] for name in encoders}

    def begin(self, batch: Sequence[Request]) -> None:
        """Begin a micro-batch, as `saeuron.generation.generate` tells it."""
        self.start(len(batch))

    def start(self, images: int) -> None:
        """Begin a micro-batch of so many images."""
        self._images, self._steps = images, 0
        self._sums.clear()

    @torch.no_grad()
    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Add one step."""
        output = output - source if self.read == "update" and source is not None else output
        rows = to_rows(step.half(output, self.half, self._images)).float()
        if not len(rows):
            return
        self._steps += 1
        for name, encode in self.encoders.items():
            largest = encode(rows).amax(1)
            self._sums[name] = self._sums[name] + largest if name in self._sums else largest

    def take(self) -> None:
        """Keep the micro-batch that was just generated."""
        for name, total in self._sums.items():
            self._done[name].append((total / self._steps).cpu())

    def strengths(self, name: str) -> Tensor:
        """A, float32 [images, N], of one dictionary, in the order of the images."""
        return torch.cat(self._done[name])


def detections(
    chosen: Tensor, chosen_asked: Sequence[str | None], judged: Tensor, judged_asked: Sequence[str | None]
) -> list[Detection]:
    """The best latent of each concept, by F1.

    Args:
        chosen: A, float32 [n, N], of the images on which latents and thresholds are chosen.
        chosen_asked: [n], the concept that each of them asks for; None: no concept of the domain.
        judged, judged_asked: the same of the images on which they are judged, [m, N] and [m].

    Returns:
        One entry per concept that both sets ask for, sorted by name. Of equal latents the first is taken, of equal
        thresholds the highest.
    """
    names = sorted({c for c in chosen_asked if c is not None} & set(judged_asked))
    if not names:
        return []
    truth = torch.tensor([[asked == name for name in names] for asked in chosen_asked], dtype=torch.float32)
    best, latent, theta = _best(chosen, truth)
    found = []
    for i, name in enumerate(names):
        asks = torch.tensor([asked == name for asked in judged_asked])
        if best[i] <= 0:
            found.append(Detection(name, None, 0.0, 0.0, 0.0, 0.0, 0.5, int(asks.sum()), len(asks)))
            continue
        strength = judged[:, latent[i]]
        named = strength >= theta[i]
        hits = float((named & asks).sum())
        precision, recall = hits / max(float(named.sum()), 1.0), hits / float(asks.sum())
        f1 = 2 * hits / float(named.sum() + asks.sum())
        figures = (float(theta[i]), precision, recall, f1, auroc(strength, asks))
        found.append(Detection(name, int(latent[i]), *figures, int(asks.sum()), len(asks)))
    return found


def _best(strength: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F1, latent, theta), each [C], of A [n, N] and truth [n, C]: every latent, every threshold."""
    count, concepts = truth.shape
    named, asked = torch.arange(1, count + 1)[:, None, None], truth.sum(0)
    best = torch.zeros(concepts)
    latent, theta = torch.zeros(concepts, dtype=torch.int64), torch.zeros(concepts)
    for start in range(0, strength.shape[1], _CHUNK):
        values, order = strength[:, start : start + _CHUNK].sort(dim=0, descending=True, stable=True)
        # [n, latents, C]: F1 if the first k images are named.
        f1 = 2 * truth[order].cumsum(0) / (named + asked)
        # A threshold cannot part equal values, and a latent that is silent names nothing.
        last = torch.cat([values[:-1] != values[1:], torch.ones_like(values[:1], dtype=torch.bool)])
        f1[~(last & (values > 0))] = 0
        per_latent, at = f1.max(0)
        value, which = per_latent.max(0)
        better = value > best
        best = torch.where(better, value, best)
        latent = torch.where(better, which + start, latent)
        theta = torch.where(better, values[at[which, torch.arange(concepts)], which], theta)
    return best, latent, theta


def auroc(strength: Tensor, truth: Tensor) -> float:
    """Probability that a true image has the larger value, ties counted half; 0.5 where one kind is missing.

    Args:
        strength: [n]. truth: bool [n].
    """
    high, low = strength[truth].double(), strength[~truth].double().sort().values
    if not len(high) or not len(low):
        return 0.5
    below, not_above = torch.searchsorted(low, high), torch.searchsorted(low, high, right=True)
    return float((below + not_above).double().mean() / (2 * len(low)))


def neurons(center: Tensor) -> Encoder:
    """The coordinates themselves, about a point [D]: latent j is x_j, latent D + j is -x_j."""

    def encode(rows: Tensor) -> Tensor:
        x = rows - center.to(rows.device)
        return torch.cat([x, -x], dim=-1)

    return encode


class Means:
    """Sums the rows of each concept at one hookpoint, from which the controls without an SAE are made."""

    def __init__(self, half: Half = "conditional", read: str = "output") -> None:
        self.half, self.read = half, read
        self._asked: Sequence[Sequence[str]] = ()
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def start(self, asked: Sequence[Sequence[str]]) -> None:
        """Begin a micro-batch: the concepts that each image asks for."""
        self._asked = asked

    @torch.no_grad()
    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Add one step."""
        output = output - source if self.read == "update" and source is not None else output
        rows = to_rows(step.half(output, self.half, len(self._asked))).double().cpu()
        for image, concepts in zip(rows, self._asked, strict=False):
            for name in ("", *concepts):
                total, count = self._sums.get(name, (torch.zeros(image.shape[1], dtype=torch.float64), 0))
                self._sums[name] = total + image.sum(0), count + len(image)

    @property
    def mean(self) -> Tensor:
        """Mean row over all images, float32 [D]."""
        total, count = self._sums[""]
        return (total / count).float()

    def neurons(self) -> Encoder:
        """The coordinates themselves, about their mean."""
        return neurons(self.mean)

    def supervised(self, concepts: Sequence[str]) -> Encoder:
        """One direction for each concept: its mean row minus that of all other images, of unit length."""
        everything, rows = self._sums[""]
        directions = []
        for name in concepts:
            total, count = self._sums[name]
            d = total / count - (everything - total) / max(rows - count, 1)
            directions.append(d / d.norm().clamp(min=1e-12))
        weights, mean = torch.stack(directions).float(), self.mean

        def encode(rows: Tensor) -> Tensor:
            return (rows - mean.to(rows.device)) @ weights.to(rows.device).T

        return encode
