"""Make a copy of an SAE of the workspace that has thresholds instead of per-row TopK."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig, in_text
from saeuron.errors import BadPrompts
from saeuron.generation import Request, spread
from saeuron.prompts import Prompt, choose
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import ThresholdsConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.thresholds import Agreement, agreement, with_thresholds
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step
from tasks.train import SAESummary, TrainJob

CHECKED = 4
"""Training images for each validation image; thresholds are taken from the former and tested on the latter."""


class ThresholdsJob(Job):
    """One SAE with thresholds: an artifact of the stage `sae`, like the SAE that it is made from."""

    stage: ClassVar[str] = TrainJob.stage
    version: ClassVar[int] = TrainJob.version
    title: ClassVar[str] = "{hookpoint} (thresholds)"
    summary_type: ClassVar[type[Summary]] = SAESummary
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"prompts_id"})

    model: ModelConfig
    model_id: str
    reading: CaptureConfig
    """Half, dtype and steps of the rows; the number of positions follows from `thresholds`."""
    thresholds: ThresholdsConfig
    hookpoint: str
    sae_id: str
    prompts_id: str
    """The prompt set to read; the id depends on its images (`images_id`), not on the set."""
    images_id: str

    @property
    def identity(self) -> dict[str, Any]:
        reading = {name: getattr(self.reading, name) for name in ("half", "read", "every", "dtype")}
        return {**super().identity, "reading": reading}


@step("thresholds")
def thresholds(job: ThresholdsJob) -> Made:
    """Generate images, take thresholds from them, and measure on other images how well they agree with TopK."""
    clock = Clock()
    sae = SAE.load(job.open.whole(job.sae_id), job.device)
    own, other = images(prompt_sets.read(job.open, job.prompts_id), job.thresholds)
    rows = _rows(job, own)
    found = with_thresholds(sae, rows)
    held_out = _rows(job, other)
    told = agreement(sae, found, held_out)
    found.save(job.folder)
    info = found.info
    summary = SAESummary(
        hookpoint=job.hookpoint,
        variant=info.variant,
        width=info.width,
        n_latents=info.n_latents,
        k=info.k,
        fvu=told.fvu,
        l0=told.l0,
        dead=told.never,
        rows=len(rows),
        seconds=clock.seconds,
        notes=_notes(job, told, len(rows), len(held_out)),
    )
    return commit(job, {"sae": job.sae_id, "prompts": job.prompts_id}, summary, clock)


def _notes(job: ThresholdsJob, told: Agreement, rows: int, held_out: int) -> tuple[str, ...]:
    return (
        f"{job.sae_id} with thresholds from {rows} rows of {job.thresholds.images} images, by which each latent fires "
        "as often as among the k largest of each row",
        f"on {held_out} rows of other prompts: {100 * told.kept:.1f} % of TopK's firings are kept, "
        f"{100 * told.shared:.1f} % of those with thresholds are TopK's, L0 {told.l0:.2f} (TopK {told.l0_topk:.2f}), "
        f"FVU {told.fvu:.4f} (TopK {told.fvu_topk:.4f})",
    )


def images(prompts: Sequence[Prompt], config: ThresholdsConfig) -> tuple[list[Request], list[Request]]:
    """(images of training prompts to take thresholds from, fewer of validation prompts to test them on).

    Raises:
        BadPrompts: there are no training or no validation prompts.
    """
    found = []
    for split, count in (("train", config.images), ("validation", math.ceil(config.images / CHECKED))):
        mine = [p for p in prompts if p.split == split]
        if not mine:
            raise BadPrompts(f"thresholds need prompts of split {split!r}, and the prompt set has none.")
        found.append(spread(choose(mine, count, config.seed), count))
    return found[0], found[1]


def rows_of(
    pipe: Any,
    wanted: Sequence[Request],
    hookpoint: str,
    drawing: ModelConfig,
    reading: CaptureConfig,
    config: ThresholdsConfig,
    tell: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Activations of images, float32 [R, D]: as many of each image as give about `config.rows` for `config.images`.

    Args:
        drawing: how images are drawn.
        reading: which rows are read; its number of positions and seed are replaced.
        tell: called with the number of images done.
    """
    steps = 1 if in_text(hookpoint) else math.ceil(drawing.steps / reading.every)
    positions = math.ceil(config.rows / (config.images * steps))
    reading = reading.model_copy(update={"positions": positions, "seed": config.seed})
    found = []
    for done, (_, _, arrays, _) in enumerate(capture(pipe, wanted, [hookpoint], drawing, reading), 1):
        rows = arrays[hookpoint]
        # A copy: the array holds the other images of the batch as well.
        found.append(np.array(rows).reshape(-1, rows.shape[-1]))
        tell(done)
    return torch.cat([tensor_of(array).float() for array in found])


def _rows(job: ThresholdsJob, wanted: Sequence[Request]) -> Tensor:
    pipe = model.pipeline(job.model, job.device)

    def tell(done: int) -> None:
        progress.tell(f"rows for {job.label}", done, len(wanted), "images")

    found = rows_of(pipe, wanted, job.hookpoint, job.model, job.reading, job.thresholds, tell)
    model.note(job.folder, pipe, job.model.micro_batch)
    return found
