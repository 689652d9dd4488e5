"""Train the SAE of one hookpoint from shards."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from saeuron.errors import ConfigError
from saeuron.sae.config import SAEConfig
from saeuron.sae.labels import concepts_of, ids, labels_for
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import quality
from storage.declared import View
from storage.dense.shards import read_manifest
from storage.tables import HISTORY, SAES, table, write_table
from tasks import prompts as prompt_sets
from tasks.capture import shard_paths
from tasks.engine import progress
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step
from tasks.fit import CHECKPOINT, Fit, Labels, fit, fit_in_processes


class SAESummary(Summary):
    """Properties and quality of an SAE; `storage.tables.SAES` describes each field."""

    hookpoint: str
    variant: str
    width: int
    n_latents: int
    k: int | None
    without: tuple[str, ...] = ()
    """Concepts whose images it was not trained on."""
    assigned: tuple[str, ...] = ()
    """Concepts that the first latents are assigned to, in their order (variant `assigned`)."""
    dictionary: str | None = None
    """`SAEConfig.dictionary`; None for an imported SAE."""
    fvu: float | None = None
    """This and the next four figures are None for an imported SAE."""
    l0: float | None = None
    dead: float | None = None
    rows: int | None = None
    seconds: float | None = None
    source: str | None = None
    """The place an imported SAE was read from. This and the fields below are empty for an SAE trained here."""
    revision: str | None = None
    format: str | None = None
    """Format of that folder."""
    notes: tuple[str, ...] = ()
    """Notes on what was left out or changed when it was read."""


class TrainJob(Job):
    """One SAE."""

    stage: ClassVar[str] = "sae"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{hookpoint}"
    summary_type: ClassVar[type[Summary]] = SAESummary
    views: ClassVar[tuple[View, ...]] = (SAES,)
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True

    config: SAEConfig
    hookpoint: str
    capture_id: str
    without: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """{domain: concepts}: images whose prompts ask for one of them are left out."""

    @property
    def label(self) -> str:
        if self.without:
            return f"{self.hookpoint} (without {', '.join(c for names in self.without.values() for c in names)})"
        dictionary = self.config.dictionary
        return self.hookpoint if dictionary == "trained" else f"{self.hookpoint} ({dictionary})"

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return {self.capture_id: (self.hookpoint,)}

    @property
    def identity(self) -> dict[str, Any]:
        fields = {**super().identity, "config": self.config.identity}
        if not self.without:
            # An SAE of all images has the id that it had before some could be left out.
            del fields["without"]
        return fields


@step("train")
def train(job: TrainJob) -> Made:
    """Train to the end, from the checkpoint of an interrupted run if there is one."""
    clock = Clock()
    shards = shard_paths(job.open, job.capture_id, job.hookpoint)
    checkpoint = job.folder / CHECKPOINT
    work = Fit(
        config=job.config,
        hookpoint=job.hookpoint,
        shards=shards,
        checkpoint=checkpoint,
        device=job.device,
        without=left_out(job),
        labels=labels(job),
    )

    def report(done: int, fvu: float) -> None:
        progress.tell(f"train {job.label}", done, job.config.steps, f"fvu {fvu:.3f}")

    trainer = (fit if job.config.processes == 1 else fit_in_processes)(work, report)
    sae = trainer.sae
    sae.save(job.folder)
    write_table(job.folder / "history.parquet", table([p._asdict() for p in trainer.history], HISTORY))
    rows = work.rows()
    members = (tensor_of(array.reshape(-1, rows.width)) for _, array in rows.everything())
    figures = quality(sae.to(job.device), _grouped(members))
    info = sae.info
    summary = SAESummary(
        hookpoint=job.hookpoint,
        variant=info.variant,
        width=info.width,
        n_latents=info.n_latents,
        k=info.k,
        dictionary=job.config.dictionary,
        assigned=assigned(work),
        without=tuple(sorted(c for names in job.without.values() for c in names)),
        fvu=figures.fvu,
        l0=figures.l0,
        dead=figures.never,
        rows=job.config.steps * job.config.batch,
        seconds=clock.seconds,
    )
    made = commit(job, {"capture": job.capture_id}, summary, clock)
    # Last, so that after an interruption before this line nothing is trained again.
    checkpoint.unlink(missing_ok=True)
    return made


def left_out(job: TrainJob) -> tuple[str, ...]:
    """Keys of the images that ask for a concept of `without`, sorted.

    Raises:
        ConfigError: no image of the capture asks for one of the concepts.
    """
    if not job.without:
        return ()
    found: dict[str, str] = {}
    for key, asked in captured(job).items():
        for domain, names in job.without.items():
            if asked.get(domain) in names:
                found[key] = asked[domain]
    for names in job.without.values():
        if never := [c for c in names if c not in found.values()]:
            raise ConfigError(f"no captured image asks for {never[0]!r}: there is nothing of it to leave out.")
    return tuple(sorted(found))


def captured(job: TrainJob) -> dict[str, Mapping[str, str]]:
    """{key of each image of the capture: {domain: concept} that its prompt asks for}, sorted by key."""
    manifest = job.open.manifest(job.capture_id)
    prompts = {p.id: p.concepts for p in prompt_sets.read(job.open, manifest.inputs["prompts"])}
    shards = shard_paths(job.open, job.capture_id, job.hookpoint)
    keys = sorted({member.key for path in shards for member in read_manifest(path).members})
    return {key: prompts[key.rpartition("_")[0]] for key in keys}


def labels(job: TrainJob) -> Labels | None:
    """Labels of the images that are learned from, for a variant that needs them: of the concepts these ask for.

    Raises:
        ConfigError: it needs them, and no image asks for a concept.
    """
    if not job.config.needs_labels:
        return None
    out = {*left_out(job)}
    asked = {key: each for key, each in captured(job).items() if key not in out}
    concepts = labels_for(job.config, concepts_of(asked.values()), job.hookpoint)
    table = ids([*asked.values()], concepts).tolist()
    return Labels(concepts=concepts, images={key: tuple(row) for key, row in zip(asked, table, strict=True)})


def assigned(work: Fit) -> tuple[str, ...]:
    """The concepts that have a latent of their own, in the order of their latents."""
    if work.config.variant != "assigned" or work.labels is None:
        return ()
    return tuple(name for names in work.labels.concepts.values() for name in names)


def _grouped(members: Iterator[torch.Tensor], rows: int = 8192) -> Iterator[torch.Tensor]:
    """Small blocks joined into larger ones, for speed."""
    waiting: list[torch.Tensor] = []
    for member in members:
        waiting.append(member)
        if sum(len(w) for w in waiting) >= rows:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)
