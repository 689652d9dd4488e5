"""Gather the statistics of one concept: generate its images, encode the activations, and keep only sums.

Sums merge exactly. So images and steps that an earlier artifact has counted are taken from it, for each SAE, and the
result has the same bytes as one computed from scratch.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from saeuron.config import ModelConfig, ScoreConfig
from saeuron.generation import Request
from saeuron.sae.autoencoder import SAE
from saeuron.scoring import Accumulator, Totals, gather, images
from storage import Workspace
from storage.errors import ArtifactMissing, Damaged
from storage.files import read_json, write_json
from storage.identity import artifact_id
from storage.manifests import Manifest
from storage.statistics.sums import (
    CELLS_FILE,
    STATISTICS_FILE,
    Counts,
    Sums,
    merge,
    read_counts,
    read_statistics,
    write_statistics,
)
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step

IMAGES = "images.json"
"""The keys of the images that were counted."""
COUNTED = ".counted"
"""Written last into the folder of an artifact that was made beside another: only its commit is left to do."""
_SIZE = frozenset({"images", "images_per_prompt", "every"})
"""Fields of the configuration that set how much is counted, not how."""


class ScoredSAE(Summary):
    """The statistics of one SAE."""

    sae_id: str
    hookpoint: str
    folder: str
    """Folder of its files in the artifact."""
    n_images: int


class ScoreSummary(Summary):
    """The concept, the model and the SAEs of statistics."""

    domain: str
    concept: str
    protocol: str
    """Id of the model and its settings; only statistics with the same protocol can be compared."""
    model_id: str
    half: str
    saes: tuple[ScoredSAE, ...]


class ScoreJob(Job):
    """The statistics of one concept at every hookpoint of its domain."""

    stage: ClassVar[str] = "score"
    version: ClassVar[int] = 4
    title: ClassVar[str] = "{concept}"
    summary_type: ClassVar[type[Summary]] = ScoreSummary
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"prompts_id", "bases", "beside"})

    model: ModelConfig
    model_id: str
    config: ScoreConfig
    domain: str
    concept: str
    score_on: str
    prompts_id: str
    """The prompt set to read; the id depends on its images (`images_id`), not on the set."""
    images_id: str
    saes: dict[str, str]
    """{hookpoint: SAE id}."""
    bases: tuple[str, ...] = ()
    """Artifacts that may hold a part of these statistics; see `bases`."""
    beside: tuple["ScoreJob", ...] = ()
    """The same concept's statistics of other SAEs, gathered in the same pass."""

    @property
    def protocol(self) -> str:
        """Id of what statistics must have in common to be compared: model, sampling and settings of the scoring."""
        fields = self.identity
        return artifact_id("protocol", self.version, {k: fields[k] for k in ("model", "model_id", "config")})


def bases(job: ScoreJob, known: Iterable[Manifest]) -> tuple[str, ...]:
    """Committed statistics of the same concept and settings that share an SAE with the job."""
    wanted = _kind(job.identity)
    return tuple(
        m.id
        for m in known
        if m.version == job.version
        and m.id != job.id
        and _kind(m.config) == wanted
        and {*m.config["saes"].values()} & {*job.saes.values()}
    )


def _kind(identity: dict[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in identity.items() if k not in ("saes", "images_id", "config")}
    return fields | {"config": {k: v for k, v in identity["config"].items() if k not in _SIZE}}


class Base(NamedTuple):
    """The statistics of one SAE in an earlier artifact."""

    folder: Path
    keys: frozenset[str]
    every: int


class Part(NamedTuple):
    """Missing statistics: some images, at every `every`-th step except multiples of `known`."""

    keys: frozenset[str]
    every: int
    known: int | None = None


def left(wanted: Iterable[str], every: int, base: Base | None) -> list[Part]:
    """The wanted images and steps that `base` lacks."""
    keys = frozenset(wanted)
    if base is None:
        return [Part(keys, every)]
    parts = [Part(keys - base.keys, every), Part(keys & base.keys, every, base.every)]
    return [part for part in parts if part.keys and part.known != part.every]


@step("score")
def score(job: ScoreJob) -> Made:
    """Generate and sum, for this job and those beside it; one folder of Parquet per SAE. Commit this job."""
    clock = Clock()
    prompts = prompt_sets.read(job.open, job.prompts_id)
    wanted = images(prompts, job.config, job.domain, job.concept, job.score_on)
    counted = job.folder / COUNTED
    if not counted.exists():
        _count(job, wanted)
    summary = ScoreSummary(
        domain=job.domain,
        concept=job.concept,
        protocol=job.protocol,
        model_id=job.model_id,
        half=job.config.half,
        saes=tuple(
            ScoredSAE(sae_id=sae_id, hookpoint=hookpoint, folder=hookpoint, n_images=len(wanted))
            for hookpoint, sae_id in job.saes.items()
        ),
    )
    made = commit(job, {"prompts": job.prompts_id, **job.saes}, summary, clock)
    counted.unlink(missing_ok=True)
    return made


def _count(job: ScoreJob, wanted: Sequence[Request]) -> None:
    """Write the statistics of the job and of those beside it."""
    keys = {r.key for r in wanted}
    places = {sae_id: (each, h) for each in (job, *job.beside) for h, sae_id in each.saes.items()}
    found = {sae_id: _base(each, keys, sae_id) for sae_id, (each, _) in places.items()}
    sums: dict[str, list[Sums]] = {i: [read_statistics(base.folder)] if base else [] for i, base in found.items()}
    # SAEs that lack the same share a pass.
    work: dict[Part, list[str]] = defaultdict(list)
    for sae_id, base in found.items():
        for part in left([r.key for r in wanted], job.config.every, base):
            work[part].append(sae_id)
    for part, sae_ids in work.items():
        requests = [r for r in wanted if r.key in part.keys]
        for sae_id, totals in _gather(job, part, requests, {i: places[i][1] for i in sae_ids}).items():
            sums[sae_id].append(Sums(**totals._asdict()))
    for sae_id, parts in sums.items():
        each, hookpoint = places[sae_id]
        write_statistics(each.folder / hookpoint, merge(parts))
    for each in (job, *job.beside):
        write_json(each.folder / IMAGES, sorted(keys))
    for each in job.beside:
        write_json(each.folder / COUNTED, True)


def _base(job: ScoreJob, wanted: set[str], sae_id: str) -> Base | None:
    """The base that saves the most work for an SAE; None if none fits."""
    best, saved = None, 0.0
    for name in job.bases:
        try:
            manifest = job.open.manifest(name)
            keys = frozenset(read_json(job.open.whole(name) / IMAGES))
        except (ArtifactMissing, Damaged):
            continue
        every = int(manifest.config["config"]["every"])
        folder = next((e["folder"] for e in manifest.summary["saes"] if e["sae_id"] == sae_id), None)
        # Images cannot be subtracted from sums: a maximum does not tell which image it came from.
        if folder is None or not keys <= wanted or every % job.config.every:
            continue
        if len(keys) / every > saved:
            best, saved = Base(job.open.folder(name) / folder, keys, every), len(keys) / every
    return best


def _gather(job: ScoreJob, part: Part, wanted: Sequence[Request], saes: Mapping[str, str]) -> dict[str, Totals]:
    """{SAE id: totals}, of {SAE id: hookpoint}."""
    pipe = model.pipeline(job.model, job.device)
    readers = [
        (h, Accumulator(SAE.load(job.open.whole(i), job.device), job.config.half, part.every, part.known))
        for i, h in saes.items()
    ]

    def report(done: int) -> None:
        progress.tell(f"score {job.concept}", done, len(wanted), "images")

    found = gather(pipe, readers, wanted, job.model, job.config.seed, report)
    for each in (job, *job.beside):
        model.note(each.folder, pipe, job.model.micro_batch)
    return dict(zip(saes, found, strict=True))


def read(workspace: Workspace, score_id: str, hookpoint: str) -> Counts:
    """The counts of one concept at one hookpoint, for a profile."""
    return read_counts(workspace.whole(score_id, *files(hookpoint)) / hookpoint)


def files(hookpoint: str) -> tuple[str, ...]:
    """The files of a score artifact that `read` reads."""
    return f"{hookpoint}/{STATISTICS_FILE}", f"{hookpoint}/{CELLS_FILE}"
