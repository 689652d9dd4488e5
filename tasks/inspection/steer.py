"""What pictures do when one latent is turned up or down, beside a latent drawn at random and a difference of means.

steering.parquet   each direction at each alpha on validation images, and at the chosen ones on test images
steering.png       validation images at each alpha of the latent
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saeuron.config import Half, ModelConfig
from saeuron.figures.metrics import wilson
from saeuron.generation import Request, generate
from saeuron.hooks import attached
from saeuron.inspection.steer import ALPHAS, Outcome, Readings, best, directions, images, outcome, pushed
from saeuron.methods.removal import removed
from saeuron.noise import generator
from saeuron.pages.grid import grid
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config
from saeuron.sae.diagnosis.explanations import Form, Labels, Rule
from storage.declared import View
from storage.tables import STEERING, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step

PICTURE = "steering.png"
_SHOWN = 4
"""Prompts of either sign on the picture."""
_SIGNS = (True, False)
"""Up, on images without what the rule says; down, on images with it."""


class SteerConfig(Config):
    """How a latent is tried."""

    images: int = Field(24, ge=1)
    """Images of each sign and alpha."""
    alphas: tuple[float, ...] = Field(ALPHAS, min_length=1)
    """How often the mean activation is added, and taken away."""
    read: Literal["output", "update"] = "output"
    """Activations that the SAE was trained on."""
    look: Literal["conditional", "unconditional"] = "conditional"
    """Half of the guided batch that the SAE reads."""
    half: Half = "both"
    """Half that is edited."""
    seed: int = 8
    """Seed of noise, of the choice of prompts and of the random latent; no run uses it otherwise."""


class SteerSummary(Summary):
    """Summary of the effects of a latent and its controls on test images."""

    sae_id: str
    hookpoint: str
    latent: int
    rule: str
    confidence: float
    strength: float
    """Mean of the latent over the rows where it fires; 0: it was silent, and nothing was edited."""
    random: int
    """The latent drawn at random."""


class SteerJob(Job):
    """One latent of one SAE."""

    stage: ClassVar[str] = "steering"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "latent {latent}"
    summary_type: ClassVar[type[Summary]] = SteerSummary
    views: ClassVar[tuple[View, ...]] = (STEERING,)
    publishes: ClassVar[Mapping[str, str]] = {PICTURE: "pictures/{sae_id}_{latent}_steering.png"}
    command: ClassVar[str] = "saeuron latent steer {sae_id} {latent}"

    model: ModelConfig
    model_id: str
    config: SteerConfig
    sae_id: str
    latent: int
    form: Form
    values: tuple[tuple[str, str], ...]
    """(domain, concept) of the rule; all of one domain."""
    confidence: float
    prompts_id: str
    judges: dict[str, DomainJudge]

    @property
    def rule(self) -> Rule:
        """What the images show on which the latent fires."""
        return Rule(self.form, self.values)

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


class Seen(NamedTuple):
    """Images, and what judges see in them."""

    pictures: NDArray[np.uint8]
    labels: list[Labels]
    ordinary: list[bool | None]


@step("steer")
def steer(job: SteerJob) -> Made:
    """Draw validation images at every alpha, choose one of each sign, and draw test images with these."""
    clock, config, rule = Clock(), job.config, job.rule
    pipe, sae = model.pipeline(job.model, job.device), SAE.load(job.open.whole(job.sae_id), job.device)
    hookpoint, prompts = sae.info.hookpoint, prompt_sets.read(job.open, job.prompts_id)
    wanted = {
        (split, plus): images([p for p in prompts if p.split == split], rule, not plus, config.images, config.seed)
        for split in ("validation", "test")
        for plus in _SIGNS
    }
    plain: dict[tuple[str, bool], Seen] = {}
    readers = {plus: Readings(sae, job.latent, config.look, config.read) for plus in _SIGNS}
    both = Readings(sae, job.latent, config.look, config.read)
    for plus, reader in readers.items():
        with attached(pipe, readers={hookpoint: reader}):
            plain["validation", plus] = _drawn(job, pipe, wanted["validation", plus], reader)
        both.join(reader)
        plain["test", plus] = _drawn(job, pipe, wanted["test", plus])
    other = _random(job, sae)
    ways = directions(sae, job.latent, other, both.strength, readers[False].means, readers[True].means)

    rows: list[dict[str, Any]] = []
    shown: dict[float, NDArray[np.uint8]] = {}
    total = len(ways) * 2 * (len(config.alphas) + 1)

    def tried(kind: str, split: str, alpha: float) -> tuple[Outcome, NDArray[np.uint8]]:
        progress.tell(f"latent {job.latent}", len(rows), total, "settings")
        plus = alpha > 0
        with removed(pipe, [pushed(hookpoint, ways[kind], alpha, config.half)], any_model=True):
            seen = _drawn(job, pipe, wanted[split, plus])
        found = outcome(rule, plus, plain[split, plus].labels, seen.labels, seen.ordinary, [*job.judges])
        rows.append(_row(job, hookpoint, kind, split, alpha, found, plain[split, plus]))
        return found, seen.pictures

    for kind in ways:
        for sign in (1, -1):
            found = {}
            for alpha in (sign * a for a in config.alphas):
                found[alpha], pictures = tried(kind, "validation", alpha)
                if kind == "latent":
                    shown[alpha] = pictures
            alpha = best(found)
            tried(kind, "test", alpha)
            for row in rows[-len(found) - 1 :]:
                row["chosen"] = row["alpha"] == alpha
    write_table(job.folder / STEERING.file, table(rows, STEERING))
    _picture(job, wanted, {plus: plain["validation", plus].pictures for plus in _SIGNS}, shown)
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = SteerSummary(
        sae_id=job.sae_id,
        hookpoint=hookpoint,
        latent=job.latent,
        rule=rule.words,
        confidence=job.confidence,
        strength=both.strength,
        random=other,
    )
    return commit(job, {"sae": job.sae_id, "prompts": job.prompts_id}, summary, clock)


def _drawn(job: SteerJob, pipe: Any, wanted: Sequence[Request], reader: Readings | None = None) -> Seen:
    """Generate images, a reader looking on, and judge them."""
    pictures: list[NDArray[np.uint8]] = []
    labels: list[Labels] = []
    ordinary: list[bool | None] = []
    about = {domain for domain, _ in job.values}.pop()
    for requests, found in generate(pipe, wanted, job.model, job.config.seed, begin=reader.begin if reader else None):
        if reader:
            reader.take()
        seen = {domain: judge.look(domain, found, job.device) for domain, judge in job.judges.items()}
        labels += [{domain: said[i].label for domain, said in seen.items()} for i in range(len(requests))]
        ordinary += job.judges[about].ordinary(about, found, job.device)
        pictures.append(found)
    return Seen(np.concatenate(pictures), labels, ordinary)


def _random(job: SteerJob, sae: SAE) -> int:
    """Another latent, drawn at random."""
    import torch

    drawn = torch.randint(sae.info.n_latents - 1, (1,), generator=generator("steer", job.config.seed, job.latent))
    return int(drawn) + (int(drawn) >= job.latent)


def _row(
    job: SteerJob, hookpoint: str, kind: str, split: str, alpha: float, found: Outcome, plain: Seen
) -> dict[str, Any]:
    on, off, odd = found.shares
    low, high = wilson(found.on, found.n)
    unedited = outcome(job.rule, alpha > 0, plain.labels, plain.labels, plain.ordinary, [*job.judges])
    return {
        "hookpoint": hookpoint,
        "sae_id": job.sae_id,
        "latent": job.latent,
        "rule": job.rule.words,
        "confidence": job.confidence,
        "kind": kind,
        "split": split,
        "alpha": alpha,
        "chosen": False,
        "on_target": on,
        "low": low,
        "high": high,
        "unedited": unedited.shares[0],
        "off_target": off,
        "odd": odd,
        "odd_unedited": unedited.shares[2],
        "success": found.success,
        "n": found.n,
    }


def _picture(
    job: SteerJob,
    wanted: Mapping[tuple[str, bool], Sequence[Request]],
    plain: Mapping[bool, NDArray[np.uint8]],
    shown: Mapping[float, NDArray[np.uint8]],
) -> None:
    """The first validation images of either sign, unedited and at each alpha."""
    bands = []
    for plus, heading in ((True, "turned up, where it is not asked for"), (False, "turned down, where it is")):
        alphas = [a if plus else -a for a in job.config.alphas]
        requests = wanted["validation", plus][:_SHOWN]
        rows = [
            (request.prompt.text, [plain[plus][i], *(shown[alpha][i] for alpha in alphas)])
            for i, request in enumerate(requests)
        ]
        bands.append((heading, ["unedited", *(f"{alpha:+g}" for alpha in alphas)], rows))
    grid(bands, f"latent {job.latent}: {job.rule.words}", job.folder / PICTURE)
