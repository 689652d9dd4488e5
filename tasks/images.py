"""Generate and judge the test images of a prompt set, with or without removals; shard by shard."""

import io
import logging
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saeuron import evaluation
from saeuron.config import EvaluateConfig, ModelConfig
from saeuron.generation import Request, generate
from saeuron.judges import judge, judges
from saeuron.methods.saeuron import removed
from saeuron.metrics import Judged
from storage import Workspace, shards
from storage.errors import ArtifactMissing, Damaged, StorageError
from storage.files import read_json, write_json
from storage.manifests import Manifest
from storage.tables import IMAGES, read_table, table, write_table
from tasks import prompts as prompt_sets
from tasks import tune
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, commit
from tasks.engine.step import step

log = logging.getLogger(__name__)

INDEX = "images.parquet"


class ImagesJob(Job):
    """The test images of one prompt set under the same removals."""

    stage: ClassVar[str] = "images"
    version: ClassVar[int] = 2
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"bases"})

    model: ModelConfig
    model_id: str
    config: EvaluateConfig
    prompts_id: str
    removal_ids: tuple[str, ...] = ()
    judge_id: str
    """What the judges are, by content."""
    judges: dict[str, str]
    sampled_for: tuple[str, str] | None = None
    """With `config.retained_cells`: the (domain, concept) whose own cells are all kept."""
    bases: tuple[str, ...] = ()
    """Image sets that may hold some of the same images; see `bases`."""

    @property
    def label(self) -> str:
        return "unedited" if not self.removal_ids else " + ".join(self.removal_ids)

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return {name: files for name, files in super().reads.items() if name not in self.bases}


def images(job: ImagesJob) -> list[Request]:
    """The test images of the job's prompts. Raises BadPrompts."""
    return evaluation.images(prompt_sets.read(job.open, job.prompts_id), job.config, job.sampled_for)


_SIZE = frozenset({"seeds", "retained_cells", "shard_images"})
"""What of the configuration says which images there are, and not what is on them."""


def bases(job: ImagesJob, known: Iterable[Manifest], prompts: Iterable[Manifest]) -> tuple[str, ...]:
    """Of the committed sets those whose images are made and judged as the job's are, and some may be the same.

    Those are sets of prompts with concepts in common in every domain: the prompts of two concepts that were added have
    none, and of hundreds none is looked into.
    """
    asked = {m.id: m.config["domains"] for m in prompts}
    mine, wanted = asked.get(job.prompts_id, {}), _kind(job.identity)

    def near(prompts_id: str) -> bool:
        theirs = asked.get(prompts_id, {})
        return prompts_id == job.prompts_id or all({*mine[d]} & {*theirs.get(d, ())} for d in mine)

    found = (m for m in known if m.version == job.version and m.id != job.id and near(m.inputs["prompts"]))
    return tuple(sorted(m.id for m in found if _kind(m.config) == wanted))


def _kind(identity: dict[str, Any]) -> dict[str, Any]:
    fields = {k: v for k, v in identity.items() if k not in ("prompts_id", "sampled_for", "config")}
    return fields | {"config": {k: v for k, v in identity["config"].items() if k not in _SIZE}}


class Known(NamedTuple):
    """An image that an earlier set holds."""

    png: bytes
    judged: dict[str, str | None]


def known_images(workspace: Workspace, base_ids: Iterable[str], keys: Set[str]) -> dict[str, Known]:
    """Those of the images `keys` that earlier sets hold, by key. A set that is damaged holds none."""
    found: dict[str, Known] = {}
    for base in base_ids:
        lacking = keys - found.keys()
        if not lacking:
            break
        try:
            rows = _index(workspace, base)
            mine = {row["key"]: row for row in rows if row["key"] in lacking}
            for shard in sorted({row["shard"] for row in mine.values()}):
                path = workspace.whole(base, shard, shards.sidecar(Path(shard)).name) / shard
                for member in shards.read_manifest(path).members:
                    if member.extension == "png" and member.key in mine:
                        png, judged = shards.read_member(path, member), dict(mine[member.key]["judged"])
                        found[member.key] = Known(png, judged)
        except (ArtifactMissing, Damaged) as error:
            log.warning("the images of %s are not used again: %s", base, error)
    return found


def shard_count(job: ImagesJob) -> int:
    """How many shards the set has."""
    return -(-len(images(job)) // job.config.shard_images)


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


@step("images shard")
def images_shard(job: ImagesJob, index: int) -> Made:
    """Generate, judge and store one shard."""
    clock = Clock()
    path = job.folder / f"{index:05d}.tar"
    labels = job.folder / "judged" / f"{index:05d}.json"
    if not shards.verify(path) and _readable(labels):
        return Made(id=job.id, cached=True)
    everything = images(job)
    start = index * job.config.shard_images
    mine = everything[start : start + job.config.shard_images]
    there = known_images(job.open, job.bases, {request.key for request in mine})
    lacking = [request for request in mine if request.key not in there]

    if lacking:
        pipe = model.pipeline(job.model, job.device)
        removals = [tune.load(job.open.whole(i)) for i in job.removal_ids]
        chosen, domains = judges(job.judges), list(job.judges)
        done = start + len(mine) - len(lacking)
        what = "unedited" if not removals else "without " + ", ".join(r.concept for r in removals)
        with removed(pipe, removals):
            for batch, pictures in generate(pipe, lacking, job.model, job.config.seed):
                for request, picture, answer in zip(batch, pictures, judge(chosen, domains, pictures), strict=True):
                    there[request.key] = Known(_png(picture), answer)
                done += len(batch)
                progress.tell(f"images {what}", done, len(everything), "images")
    write_json(labels, {request.key: there[request.key].judged for request in mine})
    samples = [(r.key, {"png": there[r.key].png, "txt": r.prompt.text.encode()}) for r in mine]
    shards.write_shard(path, samples, {"model_id": job.model_id, "seed": job.config.seed})
    return Made(id=job.id, seconds=clock.seconds)


def _readable(labels: Path) -> bool:
    try:
        read_json(labels)
    except StorageError:
        return False
    return True


@step("images")
def image_set(job: ImagesJob) -> Made:
    """Commit the shards as one image set, with their index."""
    clock = Clock()
    rows = []
    seen: dict[str, dict[str, str | None]] = {}
    for i, request in enumerate(images(job)):
        index = i // job.config.shard_images
        if i % job.config.shard_images == 0:
            seen = read_json(job.folder / "judged" / f"{index:05d}.json")
        rows.append(
            {
                "image_set": job.id,
                "key": request.key,
                "shard": f"{index:05d}.tar",
                "prompt_id": request.prompt.id,
                "image_index": request.index,
                "split": request.prompt.split,
                "asked": dict(request.prompt.concepts),
                "judged": seen[request.key],
                "removals": list(job.removal_ids),
            }
        )
    write_table(job.folder / INDEX, table(rows, IMAGES))
    return commit(job, {"prompts": job.prompts_id, "removals": list(job.removal_ids)}, {"images": len(rows)}, clock)


def _index(workspace: Workspace, image_set_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(workspace.whole(image_set_id, INDEX) / INDEX).to_pylist()
    return rows


def read(workspace: Workspace, image_set_id: str) -> list[Judged]:
    """What the judges saw on an image set."""
    rows = _index(workspace, image_set_id)
    return [Judged(r["prompt_id"], r["image_index"], dict(r["asked"]), dict(r["judged"])) for r in rows]


def pictures(workspace: Workspace, image_set_id: str, keys: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Some images of a set by key, uint8 [H, W, 3]."""
    found = {}
    for path in sorted(workspace.folder(image_set_id).glob("*.tar")):
        for member in shards.read_manifest(path).members:
            if member.key in keys and member.extension == "png":
                image = Image.open(io.BytesIO(shards.read_member(path, member))).convert("RGB")
                found[member.key] = np.asarray(image)
    return found
