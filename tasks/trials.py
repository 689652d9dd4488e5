"""Make the candidates for one removal, and generate validation images with each; `tune` chooses among them.

No judge is used here, so that another judge can choose without new images.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from saeuron import methods
from saeuron.config import ModelConfig, TuneConfig
from saeuron.generation import Request, generate
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal, removed
from saeuron.pages.cards import published
from saeuron.pages.pictures import picture_of, png_of
from saeuron.profiles import profile
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.tuning import candidates, learning_images, learning_prompts, validation_images
from storage import Workspace
from storage.dense import shards
from storage.identity import artifact_id
from tasks import prompts as prompt_sets
from tasks import score, totals
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

UNEDITED = "unedited"


class TrialsSummary(Summary):
    """Numbers of candidates and images."""

    domain: str
    concept: str
    method: str
    candidates: int
    images: int
    """Images of each candidate and of the unedited model; 0 if there is no judge."""


class TrialsJob(Job):
    """The candidates for the removal of one concept by one method, against a fixed reference set."""

    stage: ClassVar[str] = "trials"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{concept} by {method}"
    summary_type: ClassVar[type[Summary]] = TrialsSummary
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"prompts_ids", "totals"})

    model: ModelConfig
    model_id: str
    config: TuneConfig
    """Its settings and concepts do not count: `candidates` is what is tried."""
    domain: str
    concept: str
    method: str
    candidates: tuple[dict[str, JsonValue], ...]
    """The settings of each candidate, mild before strong."""
    reference: tuple[str, ...]
    """The concepts of the domain as this removal knows it, the concept itself included."""
    prompts_ids: tuple[str, ...]
    """The prompt set, and the one of a concept that was added later; what counts is which images they give."""
    images_id: str
    """Which validation images are generated; empty where there is no judge to look at them."""
    learning_id: str = ""
    """Which images and prompts the method learns from; empty where it needs none."""
    hookpoints: tuple[str, ...]
    saes: dict[str, str] = Field(default_factory=dict)
    """{hookpoint: SAE id}, for a method that edits latents."""
    scores: dict[str, str] = Field(default_factory=dict)
    """{concept of the reference set: score id}, for a method that edits latents."""
    totals: dict[str, str] = Field(default_factory=dict)
    """{hookpoint: the totals of the reference set}."""

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        # The totals say enough of the other concepts.
        read = dict.fromkeys((*self.prompts_ids, *self.saes.values(), *self.totals.values()), ())
        own = {self.scores[self.concept]: tuple(f for h in self.saes for f in score.files(h))} if self.scores else {}
        return read | own

    @property
    def identity(self) -> dict[str, Any]:
        fields = super().identity
        kept = {k: v for k, v in fields["config"].items() if k not in ("concepts", "settings")}
        return {**fields, "config": kept}

    @property
    def reference_set(self) -> str:
        """A short name for what 'other' and the thresholds m were computed over."""
        return artifact_id("reference", 1, {"scores": sorted(self.scores.values()) or sorted(self.reference)})


@step("trials")
def trials(job: TrialsJob) -> Made:
    """Write `<candidate>.safetensors`, and a shard of images for the unedited model and for each candidate."""
    clock = Clock()
    workspace = job.open
    pipe = model.pipeline(job.model, job.device)
    prompts = [p for i in job.prompts_ids for p in prompt_sets.read(workspace, i)]
    provenance = {
        "model": published(job.model.spec),
        "model_id": job.model_id,
        "reference_set": job.reference_set,
        "reference": job.scores or list(job.reference),
    }
    found = candidates(methods.get(job.method), _evidence(job, pipe, prompts), job.candidates, provenance)
    for i, removal in enumerate(found):
        removal.save(job.folder / candidate_file(i))
    images: list[Request] = []
    if job.images_id:
        images = validation_images(prompts, job.config, job.domain, job.concept, job.reference)
        todo: list[tuple[str, list[Removal]]] = [(UNEDITED, []), *((f"{i:03d}", [r]) for i, r in enumerate(found))]
        for done, (name, removals) in enumerate(todo):
            _generate(job, pipe, job.folder / f"{name}.tar", removals, images)
            progress.tell(f"trials {job.label}", done + 1, len(todo), "candidates")
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = TrialsSummary(
        domain=job.domain, concept=job.concept, method=job.method, candidates=len(found), images=len(images)
    )
    return commit(job, {"prompts": list(job.prompts_ids), **job.saes}, summary, clock)


def _evidence(job: TrialsJob, pipe: Any, prompts: Sequence[Prompt]) -> Evidence:
    """The evidence that the method needs."""
    workspace, needs = job.open, methods.get(job.method).needs
    optional: dict[str, Any] = {}
    if "latents" in needs:
        own = job.scores[job.concept]
        optional |= {
            "saes": {h: SAE.load(workspace.whole(i)) for h, i in job.saes.items()},
            "sae_ids": job.saes,
            "profiles": {
                h: profile(score.read(workspace, own, h), totals.read(workspace, job.totals[h])) for h in job.saes
            },
        }
    target, others = learning_images(needs, prompts, job.config, job.domain, job.concept, job.reference)
    if target or others:
        optional |= {"pipe": pipe, "target": target, "others": others, "seed": job.config.seed}
    if "prompts" in needs:
        asked, retained = learning_prompts(prompts, job.config, job.domain, job.concept, job.reference)
        optional |= {"pipe": pipe, "asked": asked, "retained": retained}
    return Evidence(job.concept, job.domain, job.hookpoints, job.config.half, model=job.model, **optional)


def _generate(job: TrialsJob, pipe: Any, path: Path, removals: Sequence[Removal], images: Sequence[Request]) -> None:
    """One shard of images, unless an interrupted task has left it whole."""
    if not shards.verify(path):
        return
    samples = []
    with removed(pipe, removals, any_model=True) as attached:
        for batch, pictures in generate(pipe, images, job.model, job.config.seed, extra=attached.call):
            samples += [(r.key, {"png": png_of(picture)}) for r, picture in zip(batch, pictures, strict=True)]
    shards.write_shard(path, samples, {"model_id": job.model_id, "seed": job.config.seed})


def candidate_file(index: int) -> str:
    """The file of a candidate's removal."""
    return f"{index:03d}.safetensors"


def pictures(workspace: Workspace, trials_id: str, name: str) -> Mapping[str, NDArray[np.uint8]]:
    """{key: uint8 [H, W, 3]} of `unedited`, or of a candidate by its three digits."""
    file = f"{name}.tar"
    path = workspace.whole(trials_id, file, shards.sidecar(Path(file)).name) / file
    return {member.key: picture_of(shards.read_member(path, member)) for member in shards.read_manifest(path).members}


def requests(prompts: Iterable[Prompt], job: TrialsJob) -> list[Request]:
    """The validation images of a job, in the order of its shards."""
    return validation_images(prompts, job.config, job.domain, job.concept, job.reference)
