"""Generate the training prompts and store what the hookpoints gave, shard by shard."""

from pathlib import Path
from typing import ClassVar

from saeuron.capture import capture as collect
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request, spread
from saeuron.prompts import cells, choose
from storage import Workspace, activations, shards
from tasks import model, progress
from tasks import prompts as prompt_sets
from tasks.step import Clock, Job, Made, commit, step


class CaptureJob(Job):
    """The activations of one model on one prompt set, at several hookpoints."""

    stage: ClassVar[str] = "capture"
    version: ClassVar[int] = 1

    model: ModelConfig
    model_id: str
    config: CaptureConfig
    prompts_id: str
    hookpoints: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.hookpoints[0] if len(self.hookpoints) == 1 else f"{len(self.hookpoints)} hookpoints"


def images(job: CaptureJob) -> list[Request]:
    """The images to capture: `prompts_per_cell` of every full combination, `plain_prompts` of every lone concept."""
    found = [p for p in prompt_sets.read(job.open, job.prompts_id) if p.split == "train"]
    groups = cells(found)
    if not groups:
        raise BadPrompts("the prompt set has no training prompts; add templates or files with split 'train'.")
    full = max(len(cell) for cell in groups)
    result = []
    for cell, members in groups.items():
        count = job.config.prompts_per_cell if len(cell) == full else job.config.plain_prompts
        if count:
            result += spread(choose(members, count, job.config.seed), count)
    return result


def shard_count(job: CaptureJob) -> int:
    """How many shards the capture has."""
    return -(-len(images(job)) // job.config.shard_images)


@step("capture shard")
def capture_shard(job: CaptureJob, index: int) -> Made:
    """Capture one shard of every hookpoint; nothing to do where they are whole."""
    clock = Clock()
    paths = {h: job.folder / h / f"{index:05d}.tar" for h in job.hookpoints}
    if not any(shards.verify(p) for p in paths.values()):
        return Made(id=job.id, cached=True)
    everything = images(job)
    start = index * job.config.shard_images
    mine = everything[start : start + job.config.shard_images]
    pipe = model.pipeline(job.model, job.device)
    samples: dict[str, list[tuple[str, dict[str, bytes]]]] = {h: [] for h in job.hookpoints}
    timesteps: list[int] = []
    for done, (request, steps, arrays, _) in enumerate(
        collect(pipe, mine, job.hookpoints, job.model, job.config), start=1
    ):
        timesteps = steps
        for hookpoint, array in arrays.items():
            samples[hookpoint].append((request.key, {"npy": activations.encode(array)}))
        progress.tell(f"shard {index + 1}", done, len(mine), "images")
    meta = {"timesteps": timesteps, "half": job.config.half, "dtype": job.config.dtype, "read": job.config.read}
    for hookpoint, path in paths.items():
        shards.write_shard(path, samples[hookpoint], {**meta, "hookpoint": hookpoint})
    return Made(id=job.id, seconds=clock.seconds)


@step("capture")
def capture(job: CaptureJob) -> Made:
    """Commit the shards as one artifact."""
    clock = Clock()
    everything, hookpoints = images(job), []
    for hookpoint in job.hookpoints:
        paths = shard_paths(job.open, job.id, hookpoint)
        rows = activations.ActivationRows(paths, verify=False)
        size = sum(p.stat().st_size for p in paths)
        hookpoints.append(
            {"hookpoint": hookpoint, "shards": len(paths), "rows": rows.rows, "bytes": size, "width": rows.width}
        )
    meta = shards.read_manifest(paths[0]).meta
    summary = {
        "model_id": job.model_id,
        "hookpoints": hookpoints,
        "images": len(everything),
        "steps": len(meta["timesteps"]),
        "half": job.config.half,
    }
    return commit(job, {"prompts": job.prompts_id}, summary, clock)


def shard_paths(workspace: Workspace, capture_id: str, hookpoint: str) -> list[Path]:
    """The shards of one hookpoint, in order."""
    return sorted((workspace.folder(capture_id) / hookpoint).glob("*.tar"))
