"""Train the SAE of one hookpoint from shards."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from saeuron.config import SAEConfig
from saeuron.sae_training import Point, quality
from saeuron.sae_training import train as fit
from storage.activations import ActivationRows
from storage.tables import HISTORY, table, write_table
from tasks import progress
from tasks.capture import shard_paths
from tasks.step import Clock, Job, Made, commit, step

CHECKPOINT = "checkpoint.safetensors"


class TrainJob(Job):
    """One SAE."""

    stage: ClassVar[str] = "sae"
    version: ClassVar[int] = 2

    config: SAEConfig
    hookpoint: str
    capture_id: str

    @property
    def label(self) -> str:
        return self.hookpoint

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "config": self.config.identity}


@step("train")
def train(job: TrainJob) -> Made:
    """Train to the end, from the checkpoint of an interrupted run if there is one."""
    clock = Clock()
    rows = ActivationRows(shard_paths(job.open, job.capture_id, job.hookpoint))

    def stream(start: int) -> Iterator[NDArray[Any]]:
        batch, seed = job.config.batch, job.config.seed
        if job.config.order == "trajectories":
            # A pool as large as a batch holds whole images, as many as fill it.
            return rows.batches(batch, seed=seed, start=start, pool_rows=batch)
        return rows.batches(batch, seed=seed, start=start)

    def report(point: Point) -> None:
        note = f"fvu {point.fvu:.3f}"
        progress.tell(f"train {job.hookpoint}", point.step, job.config.steps, note)

    checkpoint = job.folder / f".{CHECKPOINT}"
    trainer = fit(
        job.config, stream, rows.width, job.hookpoint, checkpoint=checkpoint, device=job.device, report=report
    )
    trainer.sae.save(job.folder)
    write_table(job.folder / "history.parquet", table([p._asdict() for p in trainer.history], HISTORY))
    members = (torch.from_numpy(array.reshape(-1, rows.width)) for _, array in rows.everything())
    figures = quality(trainer.sae, _grouped(members))
    checkpoint.unlink(missing_ok=True)
    info = trainer.sae.info
    summary = {
        "hookpoint": job.hookpoint,
        "variant": info.variant,
        "width": info.width,
        "n_latents": info.n_latents,
        "k": info.k,
        "fvu": figures.fvu,
        "l0": figures.l0,
        "dead": figures.never,
        "rows": job.config.steps * job.config.batch,
        "seconds": clock.seconds,
    }
    return commit(job, {"capture": job.capture_id}, summary, clock)


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
