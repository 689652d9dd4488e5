"""What a model draws too rarely or too often beside real pictures, copies of them, and what looks like none of them.

prevalence.parquet   each latent: how often it is real and generated
pairs.parquet        each generated picture: how far from the real one of its prompt, and from the nearest
ood.parquet          each picture: how far from what its kind looks like
blindspots.png       real pictures beside generated ones
sae.safetensors, cfg.json   the latents
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saeuron.blindspots.dictionary import DictionaryConfig, Strengths
from saeuron.blindspots.features import features
from saeuron.blindspots.naming import fires, is_name
from saeuron.blindspots.prevalence import Prevalence, Verdict, lifts, prevalence, strongest
from saeuron.blindspots.samples import Sample, source
from saeuron.blindspots.sheet import BLANK, LATENTS, Band, latent_band, sheet
from saeuron.blindspots.sheet import PAIRS as SHOWN_PAIRS
from saeuron.blindspots.unusual import FEWEST
from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.methods.removal import Removal, removed
from saeuron.sae.config import Config
from saeuron.sae.diagnosis.explanations import Explanation
from storage.declared import View
from storage.tables import OOD, PAIRS, PREVALENCE, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step
from tasks.inspection.compared import Looked, change_of, latent_rows, look, ood_rows, pair_rows, rules_of

PICTURE = "blindspots.png"
FLAGGED: tuple[Verdict, Verdict] = ("suppressed", "exaggerated")
TOGETHER = 3
"""Pairs of latents in the summary."""


class BlindspotsConfig(Config):
    """How a model is compared with real pictures."""

    pairs: int = Field(480, ge=8)
    """Real pictures, and as many generated ones."""
    others: int = Field(1920, ge=8)
    """Further renders that rules are chosen on, and as many that they are judged on and that the threshold of the
    ordinary is set by; of a folder, halves of it."""
    dictionary: DictionaryConfig = DictionaryConfig()
    """The SAE."""
    seed: int = 9
    """Seed of noise, of renders and of draws; no run uses it otherwise."""


class BlindspotsSummary(Summary):
    """Summary of blind spots."""

    real: str
    features: str
    removals: tuple[str, ...]
    """Removals that the model had."""
    against: str
    """The model beside, without the removals; empty: none."""
    paired: bool
    """Whether each generated picture has a real one of its prompt."""
    real_pictures: int
    generated_pictures: int
    latents: int
    fvu: float
    """Mean share of a real picture's rows that the latents do not rebuild."""
    named: int
    """Latents whose rule is a name: F1 of at least 0.5 on pictures that it was not chosen on."""
    suppressed: int
    exaggerated: int
    less: int | None
    """Latents that are drawn less often than by the model beside, and more often; None: there is none."""
    more: int | None
    control: int
    """The same two counts together where real pictures stand on either side: there should be none."""
    control_pictures: int
    """Real pictures on either side of that control."""
    copies: int
    """Generated pictures nearer to a real one than real ones are to each other."""
    unusual: int | None
    """Generated pictures above the threshold of the ordinary; None: too few pictures were held out for one."""
    unusual_new: int
    """New real pictures above it, from which neither latents nor the threshold come."""
    new_pictures: int
    """Their number; 0 for a folder, all of which is used."""
    held_out: int
    """Real pictures by which the threshold is set."""
    together: tuple[tuple[int, int, float, float], ...]
    """(latent, latent, lift among real pictures, among generated ones): the pairs whose lift differs most."""


class BlindspotsJob(Job):
    """One model beside one source of real pictures."""

    stage: ClassVar[str] = "blindspots"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{called}"
    summary_type: ClassVar[type[Summary]] = BlindspotsSummary
    views: ClassVar[tuple[View, ...]] = (PREVALENCE, PAIRS, OOD)
    publishes: ClassVar[Mapping[str, str]] = {PICTURE: "pictures/{called}_blindspots.png"}
    command: ClassVar[str] = "saeuron blindspots --real {real} --features {features}"
    excluded_from_id: ClassVar[frozenset[str]] = frozenset(
        {"called", "real", "captions", "features", "removals", "removal_names", "against"}
    )

    model: ModelConfig
    model_id: str
    config: BlindspotsConfig
    called: str
    """Name of the picture."""
    real: str
    """Where real pictures are from. captions: a table beside a folder; empty: its own, if it has one."""
    captions: str = ""
    real_id: str
    """The source by content."""
    features: str
    """The vision model."""
    features_id: str
    """The same by content."""
    prompts_id: str = ""
    """The prompt set; empty: the captions of the real pictures."""
    removals: tuple[str, ...] = ()
    """Files of removals that are attached."""
    removal_names: tuple[str, ...] = ()
    """Their names for people."""
    removal_ids: tuple[str, ...] = ()
    """Hashes of their files."""
    against: str = ""
    """A model that is drawn beside, without the removals, by the same prompts and noise; empty: none."""
    against_id: str = ""
    """The same by content."""


@step("blindspots")
def blindspots(job: BlindspotsJob) -> Made:
    """Generate, draw or read as many real pictures, learn latents of all, compare, write tables and picture."""
    clock, config = Clock(), job.config
    prompts = prompt_sets.read(job.open, job.prompts_id) if job.prompts_id else []
    real = source(job.real, job.captions)
    requests = real.requests(prompts, config.pairs, config.seed)
    beside = job.model.model_copy(update={"spec": job.against})
    without = _generated(job, model.pipeline(beside, job.device), requests, ()) if job.against else None
    pipe = model.pipeline(job.model, job.device)
    pictures = _generated(job, pipe, requests, job.removals)
    found = real.sample(requests, config.others, (pictures.shape[1], pictures.shape[2]), config.seed)
    looked = look(features(job.features, job.device), found, pictures, without, config.dictionary)
    rules = rules_of(found, requests, looked)
    seen = prevalence(looked.real.mean, looked.generated.mean, config.seed, paired=found.paired)
    control = prevalence(*(side.mean for side in looked.control), config.seed, "control", paired=found.fresh)
    change = change_of(looked, config.seed)
    latents = latent_rows(rules, seen, control, change, (len(found.real), len(pictures)))
    write_table(job.folder / PREVALENCE.file, table(latents, PREVALENCE))
    pairs = pair_rows(found, requests, looked)
    write_table(job.folder / PAIRS.file, table(pairs, PAIRS))
    ood = ood_rows(found, requests, looked, config.seed)
    write_table(job.folder / OOD.file, table(ood, OOD))
    looked.sae.save(job.folder)
    _picture(job, found, pictures, without, looked, rules, seen, change, pairs)
    model.note(job.folder, pipe, job.model.micro_batch)
    together = lifts(fires(looked.chosen, looked.real), fires(looked.chosen, looked.generated))
    summary = BlindspotsSummary(
        real=job.real,
        features=job.features,
        removals=job.removal_names,
        against=job.against,
        paired=found.paired,
        real_pictures=len(found.real),
        generated_pictures=len(pictures),
        latents=len(rules),
        fvu=float(looked.real.error.mean()),
        named=sum(is_name(rule) for rule in rules),
        suppressed=seen.verdict.count("suppressed"),
        exaggerated=seen.verdict.count("exaggerated"),
        less=change.verdict.count("suppressed") if change else None,
        more=change.verdict.count("exaggerated") if change else None,
        control=sum(v in FLAGGED for v in control.verdict),
        control_pictures=len(looked.control[0].error),
        copies=sum(row["copied"] for row in pairs),
        unusual=None if len(found.judged) < FEWEST else _unusual(ood, "generated"),
        unusual_new=_unusual(ood, "new"),
        new_pictures=sum(row["kind"] == "new" for row in ood),
        held_out=len(found.judged),
        together=tuple(tuple(pair) for pair in together[:TOGETHER]),
    )
    return commit(job, {"prompts": job.prompts_id} if job.prompts_id else {}, summary, clock)


def _generated(
    job: BlindspotsJob, pipe: Any, requests: Sequence[Request], removals: Sequence[str]
) -> NDArray[np.uint8]:
    """The picture of each request, with the removals of some files attached."""
    found: list[NDArray[np.uint8]] = []
    with removed(pipe, [Removal.load(Path(file)) for file in removals]) as attached:
        for _, pictures in generate(pipe, requests, job.model, job.config.seed, extra=attached.call):
            found.append(pictures)
            progress.tell("blindspots", sum(map(len, found)), len(requests), "pictures")
    return np.concatenate(found)


def _unusual(ood: Sequence[Mapping[str, Any]], kind: str) -> int:
    return sum(row["kind"] == kind and bool(row["is_ood"]) for row in ood)


def _picture(
    job: BlindspotsJob,
    found: Sample,
    pictures: NDArray[np.uint8],
    without: NDArray[np.uint8] | None,
    looked: Looked,
    rules: Sequence[Explanation],
    seen: Prevalence,
    change: Prevalence | None,
    pairs: Sequence[Mapping[str, Any]],
) -> None:
    """The surest latents of either verdict, those with a name first, and the nearest pairs."""
    real = [p.pixels for p in found.real]
    bands: list[Band] = []
    if change and looked.without and without is not None:
        sides = ("without", list(without), looked.without), ("generated", list(pictures), looked.generated)
        for verdict, words_ in zip(FLAGGED, ("less often than without", "more often than without"), strict=True):
            bands += _bands(rules, change, verdict, words_, sides, True)
    sides = ("real", real, looked.real), ("generated", list(pictures), looked.generated)
    for verdict, words_ in zip(FLAGGED, ("too rarely", "too often"), strict=True):
        bands += _bands(rules, seen, verdict, words_, sides, found.paired)
    index = {p.name: i for i, p in enumerate(found.real)}
    near = sorted(range(len(pairs)), key=lambda i: pairs[i]["nearest_energy"])[:SHOWN_PAIRS]
    rows = [
        ("generated", [pictures[i] for i in near]),
        ("nearest real", [real[index[pairs[i]["nearest"]]] for i in near]),
    ]
    bands.append((f"nearest pairs; {sum(p['copied'] for p in pairs)} copies", BLANK, rows))
    removals = f" without {', '.join(job.removal_names)}" if job.removal_names else ""
    sheet(bands, f"{job.model.spec}{removals} beside {job.real}", job.folder / PICTURE)


Side = tuple[str, Sequence[NDArray[np.uint8]], Strengths]


def _bands(
    rules: Sequence[Explanation],
    found: Prevalence,
    verdict: Verdict,
    words_: str,
    sides: tuple[Side, Side],
    paired: bool,
) -> list[Band]:
    """The surest latents of a verdict on two sides of pictures."""
    bands = []
    for i in sorted(strongest(found, verdict), key=lambda i: not is_name(rules[i]))[:LATENTS]:
        rule = rules[i].rule
        called = f"{rule.words}, F1 {100 * rules[i].f1:.0f}" if rule and is_name(rules[i]) else "no name"
        heading = f"drawn {words_}: latent {i} ({called}), share {100 * found.share[i]:.0f} %"
        shown = [(name, pictures, strength.mean[:, i]) for name, pictures, strength in sides]
        bands.append(latent_band(heading, shown[0], shown[1], paired, verdict == "suppressed"))
    return bands
