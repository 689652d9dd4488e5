"""Turn one latent up or down in every picture, and count what becomes of the picture.

    x' = x + alpha v,  v = fbar_i W_dec[i]    at every position and step; fbar_i is the mean of f_i where it fires

On images without what the latent's rule says, alpha > 0 should bring it; on images with it, alpha < 0 should take it
away. Controls are directions of the same length: that of a latent drawn at random, and a difference of means, which
knows the labels and is what one direction can be hoped to do. After the steering of Matryoshka SAEs' latents; what
counts as a success is ours.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from saeuron.config import Half
from saeuron.errors import BadPrompts
from saeuron.generation import Request, spread
from saeuron.hooks import Step, to_rows
from saeuron.methods.removal import Removal
from saeuron.methods.steering import DirectionEdit
from saeuron.prompts import Prompt, choose
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.explanations import Labels, Rule

ALPHAS = (1.0, 2.0, 4.0, 8.0)
ON, OFF, ODD = 0.5, 0.1, 0.1
"""A success: at least ON of the images follow, at most OFF change otherwise, at most ODD are out of the ordinary."""


class Readings:
    """Reads one hookpoint: the mean row of each image, and one latent where it fires; see `saeuron.hooks`.

    Sums are of float64, an image at a time, so that neither batches nor their order change them.
    """

    def __init__(self, sae: SAE, latent: int, half: Half = "conditional", read: str = "output") -> None:
        self.sae, self.latent, self.half, self.read = sae, latent, half, read
        self._images = 0
        self._batch: list[tuple[Tensor, Tensor, Tensor]] = []
        self._done: list[tuple[Tensor, Tensor, Tensor]] = []

    def begin(self, batch: Sequence[Request]) -> None:
        """Begin a micro-batch, as `saeuron.generation.generate` tells it."""
        self._images = len(batch)
        self._batch.clear()

    @torch.no_grad()
    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        """Add one step."""
        output = output - source if self.read == "update" and source is not None else output
        rows = to_rows(step.half(output, self.half, self._images)).float()
        if not len(rows):
            return
        f = self.sae.encode(rows)[..., self.latent].double()
        fires = f > 0
        self._batch.append((rows.double().mean(1).cpu(), (f * fires).sum(1).cpu(), fires.sum(1).cpu()))

    def take(self) -> None:
        """Keep the micro-batch that was just generated."""
        means, sums, fires = zip(*self._batch, strict=True)
        self._done.append((torch.stack(means).mean(0), torch.stack(sums).sum(0), torch.stack(fires).sum(0)))

    def join(self, other: "Readings") -> None:
        """Add what another has read."""
        self._done += other._done

    @property
    def means(self) -> Tensor:
        """Mean row of each image over positions and steps, float64 [images, D]."""
        return torch.cat([means for means, _, _ in self._done])

    @property
    def strength(self) -> float:
        """fbar: the mean of the latent over the rows where it fires; 0 if there are none."""
        total = float(torch.cat([sums for _, sums, _ in self._done]).sum())
        count = int(torch.cat([fires for _, _, fires in self._done]).sum())
        return total / count if count else 0.0


def directions(
    sae: SAE, latent: int, other: int, strength: float, with_it: Tensor, without: Tensor
) -> dict[str, Tensor]:
    """{`latent`, `random`, `difference`: v, float32 [D]}, all of the length of fbar_i W_dec[i].

    Args:
        other: the latent drawn at random.
        with_it, without: mean rows of images with and without what the rule says, [n, D] and [m, D].
    """
    rows = sae.W_dec.detach().cpu().double()
    v = strength * rows[latent]

    def sized(direction: Tensor) -> Tensor:
        return direction * (v.norm() / direction.norm().clamp(min=1e-12))

    difference = with_it.double().mean(0) - without.double().mean(0)
    found = {"latent": v, "random": sized(rows[other]), "difference": sized(difference)}
    return {kind: direction.float() for kind, direction in found.items()}


def pushed(hookpoint: str, direction: Tensor, alpha: float, half: Half) -> Removal:
    """A removal that adds alpha times a direction at every position and step."""
    edit = DirectionEdit(hookpoint, half, torch.zeros(1, dtype=torch.int64), (alpha * direction)[None].float())
    return Removal("latent", "by hand", "steering", {"alpha": alpha}, (edit,))


def images(prompts: Sequence[Prompt], rule: Rule, holds: bool, count: int, seed: int) -> list[Request]:
    """`count` images of prompts that ask, or do not ask, for what a rule says; prompts are chosen by the seed.

    Raises:
        BadPrompts: there is no such prompt.
    """
    domains = {domain for domain, _ in rule.values}
    found = [p for p in prompts if domains <= p.concepts.keys() and rule.holds(p.concepts) is holds]
    if not found:
        what, add = ("no prompt asks", "that do") if holds else ("every prompt asks", "that do not")
        raise BadPrompts(f"{what} for {rule.words}; add templates or files {add}, in every split.")
    return spread(choose(found, min(count, len(found)), seed), count)


class Outcome(NamedTuple):
    """Counts of what n images show."""

    on: int
    """Images that follow: the rule holds where alpha > 0, no longer where alpha < 0."""
    off: int | None
    """Images in which the judge of a domain outside the rule sees something else; None: no such judge."""
    odd: int | None
    """Images that are out of the ordinary; None: no judge can tell."""
    n: int

    @property
    def shares(self) -> tuple[float, float | None, float | None]:
        """(on, off, odd) as shares."""
        off, odd = (None if x is None else x / self.n for x in (self.off, self.odd))
        return self.on / self.n, off, odd

    @property
    def success(self) -> bool | None:
        """Whether it did what it should and little else; None: not all of it was judged."""
        on, off, odd = self.shares
        return None if off is None or odd is None else on >= ON and off <= OFF and odd <= ODD


def outcome(
    rule: Rule,
    plus: bool,
    before: Sequence[Labels],
    after: Sequence[Labels],
    ordinary: Sequence[bool | None],
    judged: Sequence[str],
) -> Outcome:
    """Count what became of images.

    Args:
        plus: whether the rule should hold now, or no longer.
        before, after: what judges see in the images without and with the edit, [n].
        ordinary: whether each edited image looks like the model's own; None: no judge can tell.
        judged: the domains that have a judge.
    """
    others = [d for d in judged if d not in {domain for domain, _ in rule.values}]
    on = sum(rule.holds(labels) is plus for labels in after)
    off = sum(any(b.get(d) != a.get(d) for d in others) for b, a in zip(before, after, strict=True))
    odd = None if any(o is None for o in ordinary) else sum(not o for o in ordinary)
    return Outcome(on, off if others else None, odd, len(after))


def best(found: Mapping[float, Outcome]) -> float:
    """The alpha to take: a success before others, then the most images that follow less those that pay, then mild."""

    def worth(alpha: float) -> tuple[bool, float, float]:
        on, off, odd = found[alpha].shares
        return bool(found[alpha].success), on - (off or 0) - (odd or 0), -abs(alpha)

    return max(found, key=worth)
