"""Judge descriptions of latents that people or language models wrote, on the images that rules were judged on.

descriptions.parquet    each description: how well what it claims predicts where the latent fires
"""

import random
from typing import Any, ClassVar

import torch

from saeuron.config import ModelConfig
from saeuron.generation import generate
from saeuron.hooks import attached
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config
from saeuron.sae.diagnosis.detection import Strengths
from saeuron.sae.diagnosis.explanations import Form, Labels, Rule, agreement
from storage.declared import View
from storage.tables import DESCRIPTIONS, EXPLANATIONS, read_table, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step
from tasks.sae.explain import ExplainConfig, shown
from tasks.sae.prove import batches, images


class Described(Config):
    """One description of a latent, with its claim."""

    latent: int
    description: str = ""
    """Free text; only the claim is judged."""
    form: Form
    values: tuple[tuple[str, str], ...]
    """(domain, concept) pairs of its claim about images, see `Rule`."""

    @property
    def rule(self) -> Rule:
        """The claim, as a rule that can be judged."""
        return Rule(self.form, self.values)


class DescribeSummary(Summary):
    """Summary of descriptions and their judgement."""

    hookpoint: str
    sae_id: str
    explanation_id: str
    images: int
    described: int
    """Number of descriptions."""


class DescribeJob(Job):
    """Descriptions of latents of one SAE that was explained."""

    stage: ClassVar[str] = "description"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{sae_id}"
    summary_type: ClassVar[type[Summary]] = DescribeSummary
    views: ClassVar[tuple[View, ...]] = (DESCRIPTIONS,)
    command: ClassVar[str] = "saeuron sae explain {sae_id} --import FILE"

    model: ModelConfig
    model_id: str
    config: ExplainConfig
    """Settings of the explanation, so that the images are the same."""
    sae_id: str
    explanation_id: str
    """The explanation that holds the strength above which each latent fires."""
    described: tuple[Described, ...]
    prompts_id: str
    judges: dict[str, DomainJudge]

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


@step("describe")
def describe(job: DescribeJob) -> Made:
    """Generate the test images of the explanation again, and judge every description on them."""
    clock, config = Clock(), job.config
    sae = SAE.load(job.open.whole(job.sae_id), job.device)
    own = {
        row["latent"]: row
        for row in read_table(job.open.whole(job.explanation_id, EXPLANATIONS.file) / EXPLANATIONS.file).to_pylist()
        if row["sae_id"] == job.sae_id and row["kind"] == "trained"
    }
    pipe = model.pipeline(job.model, job.device)
    wanted = images(prompt_sets.read(job.open, job.prompts_id), "test", config)
    reader, labels = Strengths({"sae": sae.encode}, config.half, config.read), list[Labels]()
    with attached(pipe, readers={sae.info.hookpoint: reader}):
        for batch in batches(wanted, job.model, "images to judge by"):
            for requests, pictures in generate(pipe, batch, job.model, config.seed, begin=reader.begin):
                labels += shown(job, requests, pictures)
                reader.take()
    thresholds = torch.tensor([own[i]["threshold"] for i in range(sae.info.n_latents)])
    fires = reader.strengths("sae") > thresholds
    # Control: the same claim, judged on where another latent fires.
    other = strangers([each.latent for each in job.described], sae.info.n_latents, config.seed)
    rows = []
    for each in job.described:
        holds = torch.tensor([each.rule.holds(found) for found in labels])
        figures = agreement(fires[:, each.latent], holds)
        names = ("precision", "recall", "f1", "confidence", "balanced_accuracy", "fires", "holds", "images")
        rows.append(
            {
                "hookpoint": sae.info.hookpoint,
                "sae_id": job.sae_id,
                "latent": each.latent,
                "description": each.description,
                "rule": each.rule.words,
                **dict(zip(names, figures, strict=True)),
                "automatic_f1": own[each.latent]["f1"],
                "other_f1": agreement(fires[:, other[each.latent]], holds)[2],
            }
        )
    write_table(job.folder / DESCRIPTIONS.file, table(rows, DESCRIPTIONS))
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = DescribeSummary(
        hookpoint=sae.info.hookpoint,
        sae_id=job.sae_id,
        explanation_id=job.explanation_id,
        images=config.images,
        described=len(rows),
    )
    inputs = {"sae": job.sae_id, "explanation": job.explanation_id, "prompts": job.prompts_id}
    return commit(job, inputs, summary, clock)


def strangers(described: list[int], n_latents: int, seed: int) -> dict[int, int]:
    """{latent: another latent, drawn at random from those described, or from all if only one is described}."""
    drawn = random.Random(seed)
    pool = described if len(described) > 1 else range(n_latents)
    return {i: drawn.choice([k for k in pool if k != i] or [i]) for i in described}
