"""Generate images of training prompts and store their activations, one artifact per hookpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from saeuron.capturing import capture as collect
from saeuron.capturing import images
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.generation import Request
from storage import Workspace
from storage.declared import View
from storage.dense import activations, shards
from storage.tables import CAPTURES
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class CaptureSummary(Summary):
    """Figures of a capture; `storage.tables.CAPTURES` describes each field."""

    model_id: str
    hookpoint: str
    shards: int
    rows: int
    bytes: int
    width: int
    images: int
    steps: int
    half: str


class CaptureJob(Job):
    """The activations of one model on some images, at one hookpoint."""

    stage: ClassVar[str] = "capture"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{hookpoint}"
    summary_type: ClassVar[type[Summary]] = CaptureSummary
    views: ClassVar[tuple[View, ...]] = (CAPTURES,)
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"prompts_id", "beside"})

    model: ModelConfig
    model_id: str
    config: CaptureConfig
    prompts_id: str
    """The prompt set to read; the id depends on its images (`images_id`), not on the set."""
    images_id: str
    hookpoint: str
    beside: tuple[str, ...] = ()
    """Other hookpoints whose shards are written in the same pass."""

    def at(self, hookpoint: str) -> "CaptureJob":
        """The same job at another hookpoint."""
        return CaptureJob.model_validate(self.model_dump() | {"hookpoint": hookpoint, "beside": ()})


def _images(job: CaptureJob) -> list[Request]:
    return images(prompt_sets.read(job.open, job.prompts_id), job.config)


def shard_count(job: CaptureJob) -> int:
    """Number of shards."""
    return -(-len(_images(job)) // job.config.shard_images)


@step("capture shard")
def capture_shard(job: CaptureJob, index: int) -> Made:
    """Write one shard of this hookpoint and of those in `beside`, except shards that are whole."""
    clock = Clock()
    paths = {h: job.at(h).folder / h / f"{index:05d}.tar" for h in (job.hookpoint, *job.beside)}
    paths = {h: path for h, path in paths.items() if shards.verify(path)}
    if not paths:
        return Made(id=job.id, cached=True)
    everything = _images(job)
    start = index * job.config.shard_images
    mine = everything[start : start + job.config.shard_images]
    pipe = model.pipeline(job.model, job.device)
    samples: dict[str, list[tuple[str, dict[str, bytes]]]] = {h: [] for h in paths}
    timesteps: Mapping[str, list[int]] = {}
    for done, (request, steps, arrays, _) in enumerate(
        collect(pipe, mine, list(paths), job.model, job.config), start=1
    ):
        timesteps = steps
        for hookpoint, array in arrays.items():
            samples[hookpoint].append((request.key, {"npy": activations.encode(array)}))
        progress.tell(f"shard {index + 1}", done, len(mine), "images")
    for hookpoint in paths:
        model.note(job.at(hookpoint).folder, pipe, job.model.micro_batch)
    meta = {"half": job.config.half, "dtype": job.config.dtype, "read": job.config.read}
    for hookpoint, path in paths.items():
        shards.write_shard(
            path, samples[hookpoint], {**meta, "timesteps": timesteps[hookpoint], "hookpoint": hookpoint}
        )
    return Made(id=job.id, seconds=clock.seconds)


@step("capture")
def capture(job: CaptureJob) -> Made:
    """Commit the shards as one artifact."""
    clock = Clock()
    paths = shard_paths(job.open, job.id, job.hookpoint)
    rows = activations.ActivationRows(paths, verify=False)
    meta = shards.read_manifest(paths[0]).meta
    summary = CaptureSummary(
        model_id=job.model_id,
        hookpoint=job.hookpoint,
        shards=len(paths),
        rows=rows.rows,
        bytes=sum(p.stat().st_size for p in paths),
        width=rows.width,
        images=len(_images(job)),
        steps=len(meta["timesteps"]),
        half=job.config.half,
    )
    return commit(job, {"prompts": job.prompts_id}, summary, clock)


def shard_paths(workspace: Workspace, capture_id: str, hookpoint: str) -> list[Path]:
    """The shards of one hookpoint, in order."""
    return sorted((workspace.folder(capture_id) / hookpoint).glob("*.tar"))
