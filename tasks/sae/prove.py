"""Measure how well single latents name concepts, for an SAE and its controls at one hookpoint.

dictionary.parquet    the best latent of each concept, with its F1 on other images than those it was chosen on
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from saeuron.config import ModelConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request, generate, spread
from saeuron.hooks import attached
from saeuron.memory import undoing
from saeuron.prompts import Prompt, cells, choose
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config
from saeuron.sae.diagnosis.detection import Detection, Encoder, Means, Strengths, detections
from storage.declared import View
from storage.tables import DICTIONARY, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

FILE = "dictionary.parquet"
NEURONS, SUPERVISED = "neurons", "supervised"
"""Controls without an SAE: single coordinates of the activations, and a difference of means for each concept."""


class ProofConfig(Config):
    """Settings of a proof."""

    images: int = Field(1000, ge=2)
    """Images of each of three sets: training prompts for the means of the controls without an SAE, validation prompts
    to choose a latent and its threshold for each concept, test prompts to judge them."""
    half: Literal["conditional", "unconditional"] = "conditional"
    """Half of the guided batch that is read."""
    read: Literal["output", "update"] = "output"
    """Activations that the SAE was trained on: the module's output, or output minus input."""
    seed: int = 5
    """Seed of noise and of the choice of prompts. Nothing else uses it, so the images are new."""


class ProofSummary(Summary):
    """Summary of a comparison with controls."""

    hookpoint: str
    sae_id: str
    """The trained SAE."""
    images: int
    """Images of each set."""


class ProofJob(Job):
    """One SAE beside its controls."""

    stage: ClassVar[str] = "proof"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{sae_id}"
    summary_type: ClassVar[type[Summary]] = ProofSummary
    views: ClassVar[tuple[View, ...]] = (DICTIONARY,)
    command: ClassVar[str] = "saeuron sae prove {sae_id}"

    model: ModelConfig
    model_id: str
    config: ProofConfig
    sae_id: str
    controls: dict[str, str]
    """{`untrained`, `frozen`: id of that SAE}; those that cannot be made are missing."""
    prompts_id: str


class Sets(Protocol):
    """Number of images in a set, and the seed of their noise."""

    @property
    def images(self) -> int: ...

    @property
    def seed(self) -> int: ...


def images(prompts: Iterable[Prompt], split: str, config: Sets) -> list[Request]:
    """`config.images` images of one split: one prompt for each combination of concepts, then again from the first.

    Raises:
        BadPrompts: there are no prompts of this split.
    """
    found = [p for p in prompts if p.split == split]
    if not found:
        raise BadPrompts(f"the prompt set has no {split} prompts; add templates or files with split '{split}'.")
    one_each = [choose(members, 1, config.seed)[0] for members in cells(found).values()]
    return spread(choose(one_each, len(one_each), config.seed), config.images)


@step("prove")
def prove(job: ProofJob) -> Made:
    """Generate the three sets, choose and judge the latents of every dictionary, and write the table."""
    clock = Clock()
    named = {"trained": job.sae_id, **job.controls}
    saes = {kind: SAE.load(job.open.whole(i), job.device) for kind, i in named.items()}
    hookpoint, config = saes["trained"].info.hookpoint, job.config
    pipe = model.pipeline(job.model, job.device)
    prompts = prompt_sets.read(job.open, job.prompts_id)
    sets = {split: images(prompts, split, config) for split in ("train", "validation", "test")}

    means = Means(config.half, config.read)

    def means_of(batch: Sequence[Request]) -> Callable[[], None]:
        means.start([tuple(r.prompt.concepts.values()) for r in batch])
        return undoing(means)

    with attached(pipe, readers={hookpoint: means}):
        for batch in batches(sets["train"], job.model, "images for the controls"):
            for _ in generate(pipe, batch, job.model, config.seed, begin=means_of):
                pass
    concepts = sorted({c for r in sets["train"] for c in r.prompt.concepts.values()})
    encoders: dict[str, Encoder] = {kind: sae.encode for kind, sae in saes.items()}
    encoders |= {NEURONS: means.neurons(), SUPERVISED: means.supervised(concepts)}

    readers = {}
    for split, what in (("validation", "images to choose by"), ("test", "images to judge by")):
        reader = readers[split] = Strengths(encoders, config.half, config.read)
        with attached(pipe, readers={hookpoint: reader}):
            for batch in batches(sets[split], job.model, what):
                for _ in generate(pipe, batch, job.model, config.seed, begin=reader.begin):
                    reader.take()
    rows = [
        {"hookpoint": hookpoint, "kind": kind, "sae_id": named.get(kind), "domain": domain, **found._asdict()}
        for kind in encoders
        for domain in sorted({d for r in sets["test"] for d in r.prompt.concepts})
        for found in _judged(kind, domain, readers, sets)
    ]
    write_table(job.folder / FILE, table(rows, DICTIONARY))
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = ProofSummary(hookpoint=hookpoint, sae_id=job.sae_id, images=config.images)
    return commit(job, {"saes": sorted(named.values()), "prompts": job.prompts_id}, summary, clock)


def _judged(
    kind: str, domain: str, readers: Mapping[str, Strengths], sets: Mapping[str, Sequence[Request]]
) -> list[Detection]:
    """The best latents of one dictionary for the concepts of one domain."""
    asked = {split: [r.prompt.concepts.get(domain) for r in sets[split]] for split in readers}
    chosen, judged = (readers[split].strengths(kind) for split in ("validation", "test"))
    return detections(chosen, asked["validation"], judged, asked["test"])


def batches(images: Sequence[Request], config: ModelConfig, what: str) -> Iterable[Sequence[Request]]:
    """Micro-batches, with progress."""
    for start in range(0, len(images), config.micro_batch):
        progress.tell(what, start, len(images), "images")
        yield images[start : start + config.micro_batch]
