"""Say in words what each latent of an SAE fires on, with a confidence, beside controls.

explanations.parquet    the rule of each latent: chosen on validation images, judged on test images
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.hooks import attached
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config
from saeuron.sae.diagnosis.detection import Encoder, Strengths, neurons
from saeuron.sae.diagnosis.explanations import Explanation, Labels
from saeuron.sae.diagnosis.explanations import explain as explained
from storage.declared import View
from storage.tables import EXPLANATIONS, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step
from tasks.sae.prove import NEURONS, batches, images

FILE = EXPLANATIONS.file
SETS = {"validation": "images to choose rules by", "test": "images to judge rules by"}
"""{split: what its images are for}; their templates differ, and so does their noise."""


class ExplainConfig(Config):
    """Settings of an explanation."""

    images: int = Field(600, ge=2)
    """Images of each of two sets: validation prompts to choose rules, test prompts to judge them."""
    share: float = Field(0.3, ge=0, lt=1)
    """A latent fires on an image above this share of its largest strength on the validation images."""
    half: Literal["conditional", "unconditional"] = "conditional"
    """Half of the guided batch that is read."""
    read: Literal["output", "update"] = "output"
    """Activations that the SAE was trained on."""
    seed: int = 6
    """Seed of noise, of the choice of prompts and of shuffled labels; no run uses it otherwise."""


class ExplainSummary(Summary):
    """Summary of an explanation."""

    hookpoint: str
    sae_id: str
    """The trained SAE."""
    images: int
    """Images of each set."""
    concepts: dict[str, int]
    """{domain: concepts that the test prompts ask for}."""


class ExplainJob(Job):
    """The latents of one SAE, and of its controls."""

    stage: ClassVar[str] = "explanation"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{sae_id}"
    summary_type: ClassVar[type[Summary]] = ExplainSummary
    views: ClassVar[tuple[View, ...]] = (EXPLANATIONS,)
    command: ClassVar[str] = "saeuron sae explain {sae_id}"

    model: ModelConfig
    model_id: str
    config: ExplainConfig
    sae_id: str
    controls: dict[str, str]
    """{`untrained`, `frozen`: id of that SAE}; those that cannot be made are missing."""
    prompts_id: str
    judges: dict[str, DomainJudge]
    """{domain: its judge}; in other domains an image counts as showing what its prompt asks for."""

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


class Judging(Protocol):
    """A job whose images are judged."""

    @property
    def judges(self) -> Mapping[str, DomainJudge]: ...

    @property
    def device(self) -> str: ...


@step("explain")
def explain(job: ExplainJob) -> Made:
    """Generate both sets, choose and judge the rule of every latent, and write the table."""
    clock, config = Clock(), job.config
    named = {"trained": job.sae_id, **job.controls}
    saes = {kind: SAE.load(job.open.whole(i), job.device) for kind, i in named.items()}
    hookpoint = saes["trained"].info.hookpoint
    pipe = model.pipeline(job.model, job.device)
    prompts = prompt_sets.read(job.open, job.prompts_id)
    sets = {split: images(prompts, split, config) for split in SETS}
    encoders: dict[str, Encoder] = {kind: sae.encode for kind, sae in saes.items()}
    # Centred at the SAE's bias, so that coordinates and latents see the same differences.
    encoders[NEURONS] = neurons(saes["trained"].b_dec.detach())

    readers: dict[str, Strengths] = {}
    labels: dict[str, list[Labels]] = {split: [] for split in SETS}
    for split, what in SETS.items():
        reader = readers[split] = Strengths(encoders, config.half, config.read)
        with attached(pipe, readers={hookpoint: reader}):
            for batch in batches(sets[split], job.model, what):
                for requests, pictures in generate(pipe, batch, job.model, config.seed, begin=reader.begin):
                    labels[split] += shown(job, requests, pictures)
                    reader.take()
    shuffled = random.Random(config.seed).sample(labels["validation"], len(labels["validation"]))
    rows = []
    for kind in encoders:
        chosen, judged = (readers[split].strengths(kind) for split in SETS)
        found = explained(chosen, labels["validation"], judged, labels["test"], config.share)
        by_chance = explained(chosen, shuffled, judged, labels["test"], config.share)
        for each, control in zip(found, by_chance, strict=True):
            about = {"hookpoint": hookpoint, "kind": kind, "sae_id": named.get(kind), "shuffled_f1": control.f1}
            rows.append({**about, **_row(each)})
    write_table(job.folder / FILE, table(rows, EXPLANATIONS))
    asked = {item for request in sets["test"] for item in request.prompt.concepts.items()}
    domains = sorted({domain for domain, _ in asked})
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = ExplainSummary(
        hookpoint=hookpoint,
        sae_id=job.sae_id,
        images=config.images,
        concepts={domain: sum(of == domain for of, _ in asked) for domain in domains},
    )
    return commit(job, {"saes": sorted(named.values()), "prompts": job.prompts_id}, summary, clock)


def shown(job: Judging, requests: Sequence[Request], pictures: NDArray[np.uint8]) -> list[Labels]:
    """{domain: concept} that each image shows: by the domain's judge, or else as its prompt asks."""
    seen = {domain: judge.look(domain, pictures, job.device) for domain, judge in job.judges.items()}
    return [
        {**request.prompt.concepts, **{domain: found[i].label for domain, found in seen.items()}}
        for i, request in enumerate(requests)
    ]


def _row(found: Explanation) -> Mapping[str, Any]:
    """One explanation as columns of the table."""
    rule = found.rule
    values = rule.values if rule else ()
    domains = {domain for domain, _ in values}
    return {
        **found._asdict(),
        "rule": rule.words if rule else None,
        "form": rule.form if rule else None,
        "domain": domains.pop() if len(domains) == 1 else None,
        "concepts": [concept for _, concept in values],
    }
