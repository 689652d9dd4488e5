"""Records of a removal for the report and the explorer, and plots of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saeuron.figures.damage import Confusion, Damage
from saeuron.figures.metrics import Metric, wilson
from saeuron.figures.quality import Quality
from saeuron.pages import dots, plots
from saeuron.pages.contents import Latent
from saeuron.pages.pictures import Words

CURVES = 6
"""Latents in a plot of scores."""
VICTIMS = 14
"""Concepts in the plot of damage."""
ROLES = {"edits": "edited", "reads": "only read, to decide where to act"}
"""{role in the view `removal_latents`: what becomes of the latent, in words}."""


@dataclass(frozen=True)
class Pair:
    """One request, without and with the removal."""

    caption: str
    unedited: str
    """Where its picture is: an address, or the picture itself as a data URI."""
    edited: str
    seen_unedited: Words = ()
    seen_edited: Words = ()


@dataclass(frozen=True)
class Rival:
    """The same concept removed by another method, on the same images; a control or a method."""

    method: str
    verdict: str
    value: float | None
    """(UA + IRA + CRA) / 3."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """{metric: value, low, high, unedited}."""
    href: str = ""


@dataclass(frozen=True)
class Comparison:
    """A method beside a control over the concepts of a domain, as fractions; see `saeuron.figures.comparison`."""

    domain: str
    method: str
    control: str
    concepts: Sequence[str]
    difference: float | None
    low: float | None
    high: float | None
    beats: bool
    n: int


@dataclass(frozen=True)
class Attack:
    """One attack on a removal: of how many prompts the concept came back."""

    attack: str
    """The attempt; `hidden` follows where no text held the concept's name."""
    strength: float
    """At which the removal was attached; the whole removal is 1."""
    prompts: int
    before: int
    """Prompts that showed the concept before the attack."""
    broken: int
    """Prompts that showed it at its end."""
    unedited: float | None
    """Share for which the same attack draws it with the unedited model; None: not tried."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the share that broke."""
        return wilson(self.broken, self.prompts)


@dataclass(frozen=True)
class Candidate:
    """One setting that was tried, with its figures on validation images."""

    settings: str
    chosen: bool
    value: float | None
    ua: float | None
    ira: float | None
    cra: float | None


@dataclass(frozen=True)
class UsedLatent:
    """A latent and a concept: its score, and how a removal uses it."""

    latent: int
    scores: Sequence[float]
    """[T], score for the concept at each step; empty: it was not scored."""
    steps: int = 0
    """Steps at which it is used."""
    factor: tuple[float, float] | None = None
    """Least and largest of what multiplies it; None: it is not edited."""
    weight: float | None = None
    """Its weight in a probe; None: no probe reads it."""
    href: str = ""

    @property
    def mean(self) -> float | None:
        """Mean score over the steps."""
        return sum(self.scores) / len(self.scores) if self.scores else None


@dataclass(frozen=True)
class AtHookpoint:
    """The latents of one SAE that matter for a concept, or that a removal uses in one way."""

    hookpoint: str
    sae_id: str
    timesteps: Sequence[int]
    """[T], descending."""
    latents: Sequence[UsedLatent]
    """Best first."""
    more: int = 0
    """How many others there are."""
    shown: Sequence[Latent] = ()
    """Some of them with their top images, where the SAE was measured."""
    href: str = ""
    role: str = ""
    """What a removal does with them, a key of `ROLES`; empty: no removal is shown."""

    @property
    def doing(self) -> str:
        """The role in words."""
        return ROLES.get(self.role, "")

    @property
    def plot(self) -> str:
        """Score of the best latents at each step, SVG; empty where nothing was scored."""
        curves = [(str(each.latent), each.scores) for each in self.latents[:CURVES] if each.scores]
        return plots.lines(self.timesteps, curves, "Score at each step") if curves else ""


@dataclass(frozen=True)
class Made:
    """An artifact that the figures rest on."""

    stage: str
    id: str
    about: str
    created: str
    seconds: float


@dataclass(frozen=True)
class RemovalRecord:
    """Everything that is known of one evaluated removal."""

    domain: str
    concept: str
    method: str
    settings: str
    verdict: str
    reason: str
    value: float | None
    """(UA + IRA + CRA) / 3, a fraction."""
    images: int
    seeds: int
    removal_id: str
    evaluation_id: str
    bands: Sequence[tuple[str, Sequence[Pair]]]
    """(what the prompts ask for, images)."""
    metrics: Sequence[Metric]
    damage: Sequence[Damage]
    """Damage to every other concept, worst first."""
    confusion: Sequence[Confusion]
    """Labels that are seen but were not asked for; those that the removal adds most come first."""
    quality: Sequence[Quality] = ()
    """Quality of pictures that do not ask for the concept."""
    attacks: Sequence[Attack] = ()
    """Attacks, those on the whole removal first."""
    rivals: Sequence[Rival] = ()
    candidates: Sequence[Candidate] = ()
    """Best first."""
    places: Sequence[AtHookpoint] = ()
    reference: Sequence[str] = ()
    """The concepts that it was computed against."""
    outdated: bool = False
    made_of: Sequence[Made] = ()
    commands: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    """{concept: its page}; empty in a page that stands alone."""

    @property
    def anchor(self) -> str:
        """The name of its place on the page."""
        return self.evaluation_id.rsplit("_", 1)[-1]

    def metric(self, name: str) -> Metric | None:
        """A figure by its name."""
        return next((m for m in self.metrics if m.metric == name), None)

    def plots(self) -> dict[str, Any]:
        """SVG by name: figures with intervals beside controls and the unedited model, damage, the sweep."""
        return {"figures": self._figures(), "damage": self._damage(), "sweep": self._sweep()}

    def _figures(self) -> list[str]:
        found = []
        for m in self.metrics:
            if m.metric.split(" ")[0] not in ("UA", "IRA", "CRA") or m.value is None:
                continue
            shown = [dots.Dot(self.method, m.value, m.low, m.high)]
            if m.unedited is not None:
                shown.append(dots.Dot("unedited", m.unedited, m.unedited_low, m.unedited_high, main=False))
            for rival in self.rivals:
                f = rival.metrics.get(m.metric, {})
                if (value := f.get("value")) is not None:
                    shown.append(dots.Dot(rival.method, value, f.get("low"), f.get("high"), main=False))
            found.append(dots.intervals(shown, f"{m.metric}, percent"))
        return found

    def _damage(self) -> str:
        worst = [dots.Dot(d.harmed, d.loss, d.low, d.high, main=d.certain) for d in self.damage[:VICTIMS]]
        return dots.intervals(worst, "Points lost, worst first", span=(-0.1, 0.5)) if worst else ""

    def _sweep(self) -> str:
        points = [
            (c.settings, c.ua, (c.ira + (c.cra if c.cra is not None else c.ira)) / 2, c.chosen)
            for c in self.candidates
            if c.ua is not None and c.ira is not None
        ]
        if len(points) < 2:
            return ""
        return dots.tradeoff(points, "Every setting that was tried", "UA, percent", "(IRA + CRA) / 2")
