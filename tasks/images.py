"""Test images of a prompt set, with or without removals: generate them by shards, and read them."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from saeuron import evaluation
from saeuron.config import EvaluateConfig, ModelConfig
from saeuron.generation import Request, generate
from saeuron.methods.removal import removed
from saeuron.pages.pictures import picture_of, png_of
from storage import Workspace
from storage.declared import View
from storage.dense import shards
from storage.errors import ArtifactMissing, Damaged
from storage.manifests import Manifest
from storage.tables import IMAGES, read_table, table, write_table
from tasks import prompts as prompt_sets
from tasks import tune
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

log = logging.getLogger(__name__)

INDEX = IMAGES.file


class ImagesSummary(Summary):
    """Number of images."""

    images: int


class ImagesJob(Job):
    """The test images of one prompt set under the same removals."""

    stage: ClassVar[str] = "images"
    summary_type: ClassVar[type[Summary]] = ImagesSummary
    views: ClassVar[tuple[View, ...]] = (IMAGES,)
    version: ClassVar[int] = 3
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"bases", "removal_ids", "named"})

    model: ModelConfig
    model_id: str
    config: EvaluateConfig
    prompts_id: str
    removal_ids: tuple[str, ...] = ()
    """The removals to read; the id depends on `contents` instead."""
    contents: tuple[str, ...] = ()
    """Ids of the removals by content; see `tasks.tune.RemovalSummary.content`."""
    named: str = ""
    """The removals as people call them."""
    sampled_for: tuple[str, str] | None = None
    """The (domain, concept) whose own cells are all kept, with `config.retained_cells`."""
    among: dict[str, str] | None = None
    """{concept: domain} of the concepts that are removed one after another; see `saeuron.evaluation.images`."""
    own_cells: int | None = None
    """The most cells to keep of each of these; None: all."""
    bases: tuple[str, ...] = ()
    """Image sets that may hold some of the same images; see `bases`."""

    @property
    def label(self) -> str:
        return self.named or " + ".join(self.removal_ids) or "unedited"

    @property
    def identity(self) -> dict[str, Any]:
        # Those of one removal have the ids that they had before there were sequences.
        fields = super().identity
        return {k: v for k, v in fields.items() if k not in _SEVERAL or v is not None}

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return {name: files for name, files in super().reads.items() if name not in self.bases}


def images(job: ImagesJob) -> list[Request]:
    """The test images of the job's prompts. Raises BadPrompts."""
    prompts = prompt_sets.read(job.open, job.prompts_id)
    return evaluation.images(prompts, job.config, job.sampled_for, job.among, job.own_cells)


_SEVERAL = ("among", "own_cells")
_SIZE = frozenset({"seeds", "retained_cells", "shard_images"})
"""Fields of the configuration that set which images there are, not what they show."""


def bases(job: ImagesJob, known: Iterable[Manifest], prompts: Iterable[Manifest]) -> tuple[str, ...]:
    """Committed image sets with the same model and removals that may share images with the job.

    Sets whose prompts share no concept with the job's in some domain are left out: so for an added concept, few of
    hundreds of sets are read.
    """
    asked = {m.id: m.config["domains"] for m in prompts}
    mine, wanted = asked.get(job.prompts_id, {}), _kind(job.identity)

    def near(prompts_id: str) -> bool:
        theirs = asked.get(prompts_id, {})
        return prompts_id == job.prompts_id or all({*mine[d]} & {*theirs.get(d, ())} for d in mine)

    found = (m for m in known if m.version == job.version and m.id != job.id and near(m.inputs["prompts"]))
    return tuple(sorted(m.id for m in found if _kind(m.config) == wanted))


def _kind(identity: dict[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in identity.items() if k not in ("prompts_id", "sampled_for", "config", *_SEVERAL)}
    return fields | {"config": {k: v for k, v in identity["config"].items() if k not in _SIZE}}


def known_images(workspace: Workspace, base_ids: Iterable[str], keys: Set[str]) -> dict[str, bytes]:
    """{key: PNG} of the images among `keys` that earlier sets hold. Damaged sets are skipped."""
    found: dict[str, bytes] = {}
    for base in base_ids:
        lacking = keys - found.keys()
        if not lacking:
            break
        try:
            wanted = [row for row in index(workspace, base) if row["key"] in lacking]
            found |= dict(_members(workspace, base, wanted))
        except (ArtifactMissing, Damaged) as error:
            log.warning("the images of %s are not used again: %s", base, error)
    return found


def shard_count(job: ImagesJob) -> int:
    """Number of shards."""
    return -(-len(images(job)) // job.config.shard_images)


@step("images shard")
def images_shard(job: ImagesJob, index: int) -> Made:
    """Generate and store one shard."""
    clock = Clock()
    path = job.folder / f"{index:05d}.tar"
    if not shards.verify(path):
        return Made(id=job.id, cached=True)
    everything = images(job)
    start = index * job.config.shard_images
    mine = everything[start : start + job.config.shard_images]
    pngs = known_images(job.open, job.bases, {request.key for request in mine})
    lacking = [request for request in mine if request.key not in pngs]

    if lacking:
        pipe = model.pipeline(job.model, job.device)
        removals = [tune.load(job.open.whole(i)) for i in job.removal_ids]
        done = start + len(mine) - len(lacking)
        what = "unedited" if not removals else "without " + ", ".join(r.concept for r in removals)
        with removed(pipe, removals, any_model=True) as attached:
            for batch, pictures in generate(pipe, lacking, job.model, job.config.seed, extra=attached.call):
                pngs |= {request.key: png_of(picture) for request, picture in zip(batch, pictures, strict=True)}
                done += len(batch)
                progress.tell(f"images {what}", done, len(everything), "images")
        model.note(job.folder, pipe, job.model.micro_batch)
    samples = [(r.key, {"png": pngs[r.key], "txt": r.prompt.text.encode()}) for r in mine]
    shards.write_shard(path, samples, {"model_id": job.model_id, "seed": job.config.seed})
    return Made(id=job.id, seconds=clock.seconds)


@step("images")
def image_set(job: ImagesJob) -> Made:
    """Commit the shards as one image set, with their index."""
    clock = Clock()
    rows = [
        {
            "image_set": job.id,
            "key": request.key,
            "shard": f"{i // job.config.shard_images:05d}.tar",
            "prompt_id": request.prompt.id,
            "image_index": request.index,
            "split": request.prompt.split,
            "asked": dict(request.prompt.concepts),
            "removals": list(job.removal_ids),
        }
        for i, request in enumerate(images(job))
    ]
    write_table(job.folder / INDEX, table(rows, IMAGES))
    inputs = {"prompts": job.prompts_id, "removals": list(job.removal_ids)}
    return commit(job, inputs, ImagesSummary(images=len(rows)), clock)


Row = dict[str, Any]
"""One image in the index of a set, by the columns of `storage.tables.IMAGES`."""


def index(workspace: Workspace, image_set_id: str) -> list[Row]:
    """The images of a set, in its order."""
    rows: list[Row] = read_table(workspace.whole(image_set_id, INDEX) / INDEX).to_pylist()
    return rows


def batches(
    workspace: Workspace, image_set_id: str, rows: Iterable[Row], size: int = 32
) -> Iterator[tuple[list[Row], NDArray[np.uint8]]]:
    """Images of a set in order, at most `size` at once: (rows, uint8 [b, H, W, 3]).

    Raises:
        ArtifactDamaged: a shard is not as it was written.
    """
    for _, group in itertools.groupby(rows, key=lambda row: row["shard"]):
        in_shard = list(group)
        pngs = dict(_members(workspace, image_set_id, in_shard))
        for start in range(0, len(in_shard), size):
            batch = in_shard[start : start + size]
            yield batch, np.stack([picture_of(pngs[row["key"]]) for row in batch])


def pictures(workspace: Workspace, image_set_id: str, keys: Set[str]) -> dict[str, NDArray[np.uint8]]:
    """Images of a set by key, uint8 [H, W, 3]. Keys that it does not hold are left out."""
    rows = [row for row in index(workspace, image_set_id) if row["key"] in keys]
    return {key: picture_of(png) for key, png in _members(workspace, image_set_id, rows)}


def _members(workspace: Workspace, image_set_id: str, rows: Iterable[Row]) -> Iterator[tuple[str, bytes]]:
    """(key, PNG) of the images in `rows`, shard by shard. Each shard is first compared with its hash."""
    keys: dict[str, set[str]] = {}
    for row in rows:
        keys.setdefault(row["shard"], set()).add(row["key"])
    for shard, wanted in sorted(keys.items()):
        path = workspace.whole(image_set_id, shard, shards.sidecar(Path(shard)).name) / shard
        for member in shards.read_manifest(path).members:
            if member.extension == "png" and member.key in wanted:
                yield member.key, shards.read_member(path, member)
