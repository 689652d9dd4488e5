"""The contents of an SAE's page, as plain records; callers fill them in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeuron.pages.pictures import Picture

RANGES = ("noisy third", "middle third", "clean third")
"""The steps of a generation in three parts, in order."""


@dataclass(frozen=True)
class ConceptScore:
    """Score of a latent for a concept, s(i,t,c) of `saeuron.scoring`."""

    domain: str
    concept: str
    timesteps: Sequence[int]
    """[T], descending."""
    scores: Sequence[float]
    """[T]."""

    @property
    def mean(self) -> float:
        """Mean score over all steps."""
        return float(np.mean(self.scores))

    @property
    def peak(self) -> tuple[float, int]:
        """(the highest score, its timestep)."""
        best = int(np.argmax(self.scores))
        return self.scores[best], self.timesteps[best]

    @property
    def by_range(self) -> list[float | None]:
        """Means over the three parts of RANGES; None for a part without steps."""
        parts = np.array_split(np.asarray(self.scores), len(RANGES))
        return [float(part.mean()) if len(part) else None for part in parts]


class Part(NamedTuple):
    """A latent over an image in one part of the generation."""

    name: str
    """One of RANGES."""
    heat: NDArray[np.uint8]
    """[h, w], its mean over the steps of the part; 255 is its overall maximum."""

    @property
    def said(self) -> str:
        """The map in words."""
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        share = int(self.heat.max()) / 255
        if not share:
            return f"{self.name}: next to nothing"
        return (
            f"{self.name}: on average at most {100 * share:.0f} % of its largest value, in row {row}, column {column}"
        )


@dataclass(frozen=True)
class Example:
    """An image in which a latent fires."""

    key: str
    """Name of the image, the same for all latents."""
    prompt: str
    picture: Picture
    heat: NDArray[np.uint8] | None
    """[h, w]: the latent over the image at `timestep`; 255 is its overall maximum. None: not kept at this rank."""
    value: float
    timestep: int
    row: int
    column: int
    """Row and column of its largest value on the map."""
    rank: int = 1
    """Place among the held-out images by the mean of the latent."""
    concepts: Mapping[str, str] = field(default_factory=dict)
    """{domain: concept} that the prompt asks for."""
    thirds: Sequence[NDArray[np.uint8] | None] = ()
    """[h, w] for each of RANGES: the mean of the latent over its steps, on the scale of `heat`. None, or left out at
    the end: a part without steps, or not kept."""

    @property
    def by_range(self) -> list[Part]:
        """The parts of RANGES that have a map, in order."""
        named = zip(RANGES, self.thirds, strict=False)
        return [Part(name, heat) for name, heat in named if heat is not None]


@dataclass(frozen=True)
class Latent:
    """Everything known of one latent."""

    latent: int
    density: float
    """Fraction of rows on which it fires."""
    image_density: float
    """Fraction of images in which it fires at any position and step."""
    mean: float
    maximum: float
    max_cosine: float
    """Largest cosine of its decoder row to any other."""
    nearest: int
    stability: float | None
    """Largest cosine to a row of the other SAE; None: not compared."""
    timesteps: Sequence[int]
    """[T], descending."""
    profile: Sequence[float]
    """[T], its mean at each step."""
    scores: Sequence[ConceptScore] = ()
    """Sorted by mean, best first."""
    examples: Sequence[Example] = ()
    neighbours: Sequence[tuple[int, float]] = ()
    """(latent, cosine) of the nearest decoder rows."""

    @property
    def agreement(self) -> tuple[int, int] | None:
        """(those that ask for the concept with the highest score, all) of its first pictures; None: unknown."""
        if not self.scores:
            return None
        domain, concept = self.scores[0].domain, self.scores[0].concept
        first = [e for e in self.examples if e.heat is not None and domain in e.concepts]
        return (sum(e.concepts[domain] == concept for e in first), len(first)) if first else None

    @property
    def has_thirds(self) -> bool:
        """Whether any of its pictures has maps over thirds of the steps."""
        return any(e.by_range for e in self.examples)

    @property
    def contradicted(self) -> bool:
        """Whether most of its first pictures ask for another concept than the one with the highest score."""
        return self.agreement is not None and 2 * self.agreement[0] < self.agreement[1]


@dataclass(frozen=True)
class StepFigures:
    """Figures of one timestep of one half."""

    timestep: int
    half: str
    rows: int
    fvu: float
    relative: float
    """sum |e|^2 / sum |x|^2."""
    l0: float
    loss_clean: float | None = None
    loss_sae: float | None = None
    loss_zero: float | None = None

    @property
    def recovered(self) -> float | None:
        """Fraction of the loss that x_hat recovers; None if zero in the hookpoint's place costs next to nothing."""
        if self.loss_clean is None or self.loss_sae is None or self.loss_zero is None:
            return None
        cost = self.loss_zero - self.loss_clean
        return (self.loss_zero - self.loss_sae) / cost if cost > 0.01 * self.loss_clean else None


@dataclass(frozen=True)
class Named:
    """The latent that names one concept best, see `saeuron.sae.diagnosis.detection`; shares, of test images."""

    domain: str
    concept: str
    latent: int | None
    """None: none fires on the images that it would be chosen on."""
    precision: float
    recall: float
    f1: float
    auroc: float
    untrained: float | None
    """F1 of the best latent of an SAE that was never trained; None: there is no such control."""
    href: str
    """Where the latent is shown; empty: nowhere."""


@dataclass(frozen=True)
class NamingMeans:
    """How well single latents of one kind of dictionary name the concepts of a domain: means over the concepts."""

    domain: str
    kind: str
    """`trained`, the controls `untrained` and `frozen`, `neurons`, or `supervised`."""
    precision: float
    recall: float
    f1: float
    auroc: float
    named: float
    """Share of the concepts whose best latent has at least the F1 `Naming.good`."""
    concepts: int
    images: int
    """Test images."""


@dataclass(frozen=True)
class Naming:
    """How well single latents of an SAE name concepts, beside its controls."""

    proof_id: str
    means: Sequence[NamingMeans]
    """By domain; in each the ceiling first, as KINDS of `tasks/sae/naming.py` has them."""
    concepts: Sequence[Named]
    """By domain, the highest F1 first; of the trained SAE."""
    good: float
    """F1 from which a latent is said to name its concept."""

    def of(self, domain: str) -> list[Named]:
        """The concepts of one domain."""
        return [each for each in self.concepts if each.domain == domain]

    @property
    def sentences(self) -> list[str]:
        """For each domain, whether the trained SAE names more concepts than the untrained one."""
        said = []
        for domain in dict.fromkeys(each.domain for each in self.means):
            share = {each.kind: each.named for each in self.means if each.domain == domain}
            if "trained" in share and "untrained" in share:
                verb = "more than" if share["trained"] > share["untrained"] else "not more than"
                said.append(
                    f"{domain}: the trained SAE names {100 * share['trained']:.0f} % of the concepts, {verb} the "
                    f"untrained one, {100 * share['untrained']:.0f} %"
                )
        return said


@dataclass(frozen=True)
class SAEReport:
    """Everything that the page of an SAE shows."""

    sae_id: str
    hookpoint: str
    config: Mapping[str, Any]
    """Facts about its training, shown in this order."""
    figures: Mapping[str, Any]
    """The contents of `diagnosis.json`: see `tasks/sae/report.py`."""
    steps: Sequence[StepFigures]
    density: NDArray[np.float64]
    """[N]."""
    max_cosine: NDArray[np.float64]
    """[N]."""
    stability: NDArray[np.float64] | None
    """[N]; None: not compared."""
    against: str | None
    """The SAE it was compared with."""
    chance: float | None
    """Mean stability of random rows of the same shapes."""
    dead: Sequence[int]
    always_on: Sequence[int]
    latents: Sequence[Latent] = ()
    """The latents to show."""
    protocol: str | None = None
    """The protocol of the scores; None: it was never scored."""
    naming: Naming | None = None
    """What its latents name; None: there is no proof."""
