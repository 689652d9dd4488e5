"""Look at an SAE: what it keeps on held-out images and what each latent stands for; how like another SAE it is.

diagnosis.json      the figures of the whole
steps.parquet       FVU, L0 and denoising losses of each (timestep, half)
latents.parquet     one row a latent: density, largest value, decoder cosine
profiles.parquet    one row a (latent, timestep)
examples.parquet    the images on which each latent is largest, and its map over each
images.tar          those images, as PNG
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from saeuron.config import ModelConfig
from saeuron.errors import BadPrompts, WidthMismatch
from saeuron.generation import Request, spread
from saeuron.pages.pictures import png_of
from saeuron.prompts import cells, choose
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.dark_matter import DarkMatter, Errors, dark_matter
from saeuron.sae.diagnosis.denoising import Loss, denoising_losses, recovered
from saeuron.sae.diagnosis.dictionary import chance, nearest
from saeuron.sae.diagnosis.gathering import ALWAYS_ON, HALVES, Firing, Gathered, Reader
from saeuron.sae.moments import pooled
from storage.dense import shards
from storage.files import write_json
from storage.tables import write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

FIGURES, STEPS, LATENTS, PROFILES, EXAMPLES, IMAGES = (
    "diagnosis.json", "steps.parquet", "latents.parquet", "profiles.parquet", "examples.parquet", "images.tar",
)  # fmt: skip
STABILITY = "stability.parquet"


class DiagnosisSummary(Summary):
    """The figures of an SAE on held-out images, of the half that it reads."""

    sae_id: str
    hookpoint: str
    fvu: float
    l0: float
    dead: int
    always_on: int
    linear: float | None
    """Share of the squared error that is linear in the activations."""
    fvu_pursuit: float
    """FVU where matching pursuit chooses the latents, as many of them."""
    recovered: float | None
    """Share of the denoising loss that the reconstruction keeps."""
    images: int


class DiagnosisJob(Job):
    """One SAE, on held-out images."""

    stage: ClassVar[str] = "diagnosis"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{sae_id}"
    summary_type: ClassVar[type[Summary]] = DiagnosisSummary
    command: ClassVar[str] = "saeuron sae report {sae_id}"

    model: ModelConfig
    model_id: str
    config: DiagnosisConfig
    sae_id: str
    prompts_id: str

    def show(self, made: Made) -> None:
        from tasks.engine import page

        page.show_diagnosis(self, made)


class StabilitySummary(Summary):
    """How like another SAE it is, as the mean over its latents."""

    sae_id: str
    against_id: str
    stability: float
    """Mean of the largest cosines."""
    encoder: float
    """Mean cosine of the encoder rows of the latents so paired."""
    chance: float
    """The mean of the largest cosines, if the directions were random."""


class StabilityJob(Job):
    """One SAE compared with another."""

    stage: ClassVar[str] = "stability"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{sae_id} against {against_id}"
    summary_type: ClassVar[type[Summary]] = StabilitySummary
    command: ClassVar[str] = "saeuron sae report {sae_id} --against {against_id}"

    sae_id: str
    against_id: str


def images(job: DiagnosisJob) -> list[Request]:
    """The held-out images: test prompts of as many combinations of concepts as there are, chosen by the seed.

    Raises:
        BadPrompts: the prompt set has no test prompts.
    """
    found = [p for p in prompt_sets.read(job.open, job.prompts_id) if p.split == "test"]
    if not found:
        raise BadPrompts("the prompt set has no test prompts; add templates or files with split 'test'.")
    seed = job.config.seed
    one_each = [choose(members, 1, seed)[0] for members in cells(found).values()]
    return spread(choose(one_each, job.config.images, seed), job.config.images)


@step("diagnose")
def diagnose(job: DiagnosisJob) -> Made:
    """Generate, read, measure, and write the tables."""
    clock = Clock()
    sae = SAE.load(job.open.whole(job.sae_id), job.device)
    pipe = model.pipeline(job.model, job.device)
    requests = images(job)
    reader = Reader(pipe, sae, requests, job.model.steps, job.config)

    def pictures() -> Iterator[tuple[str, dict[str, bytes]]]:
        done = 0
        for batch, made in reader.over(pipe, job.model):
            for request, picture in zip(batch, made, strict=True):
                yield request.key, {"png": png_of(picture), "txt": request.prompt.text.encode()}
            done += len(batch)
            progress.tell("held-out images", done, len(requests), "images")

    shards.write_shard(job.folder / IMAGES, pictures(), {"model_id": job.model_id, "seed": job.config.seed})
    gathered = reader.gathered()
    progress.tell("error of the SAE", 0, 1)
    dark = dark_matter(sae, gathered.rows, gathered.row_image % 2 == 0)
    progress.tell("denoising loss", 0, 1)
    noised = requests[: job.config.loss_images]
    losses = denoising_losses(pipe, sae, noised, job.model, job.config)
    firing = gathered.firing
    latents = latent_table(sae, firing)
    figures = _figures(job, gathered, dark, losses, latents, requests)
    write_table(job.folder / STEPS, step_table(gathered, losses))
    write_table(job.folder / LATENTS, latents)
    write_table(job.folder / PROFILES, profile_table(firing))
    write_table(job.folder / EXAMPLES, example_table(gathered, requests))
    write_json(job.folder / FIGURES, figures)
    own = figures["halves"][job.config.half]
    summary = DiagnosisSummary(
        sae_id=job.sae_id,
        hookpoint=sae.info.hookpoint,
        fvu=own["fvu"],
        l0=own["l0"],
        dead=figures["dead"],
        always_on=figures["always_on"],
        linear=dark.encoder.linear,
        fvu_pursuit=dark.pursuit.fvu,
        recovered=figures["loss"]["recovered"],
        images=len(requests),
    )
    return commit(job, {"sae": job.sae_id, "prompts": job.prompts_id}, summary, clock)


@step("stability")
def stability(job: StabilityJob) -> Made:
    """The largest cosine of each decoder row to any of the other SAE's; how far the encoder rows of such pairs agree.

    Raises:
        WidthMismatch: the SAEs read vectors of different widths.
    """
    clock = Clock()
    mine, other = (SAE.load(job.open.whole(i), job.device) for i in (job.sae_id, job.against_id))
    if mine.info.width != other.info.width:
        raise WidthMismatch(
            f"{job.against_id} has width {other.info.width}, {job.sae_id} has {mine.info.width}; compare SAEs of one "
            "hookpoint."
        )
    found = nearest(mine.W_dec, other.W_dec)
    columns: dict[str, NDArray[Any]] = {
        "latent": np.arange(mine.info.n_latents, dtype=np.uint32),
        "stability": found.cosine.cpu().numpy().astype(np.float64),
        "counterpart": found.latent.cpu().numpy().astype(np.uint32),
    }
    write_table(job.folder / STABILITY, pa.table(columns))
    encoders = torch.nn.functional.cosine_similarity(mine.W_enc.float(), other.W_enc[found.latent].float(), dim=1)
    summary = StabilitySummary(
        sae_id=job.sae_id,
        against_id=job.against_id,
        stability=float(columns["stability"].mean()),
        encoder=float(encoders.double().mean()),
        chance=chance(mine.info.n_latents, other.info.n_latents, mine.info.width),
    )
    return commit(job, {"sae": job.sae_id, "against": job.against_id}, summary, clock)


def latent_table(sae: SAE, firing: Firing) -> pa.Table:
    """One row a latent; over all steps of the half that was read."""
    rows = int(firing.rows.sum())
    like = nearest(sae.W_dec)
    density = (firing.fires.sum(0).double() / rows).numpy()
    columns: dict[str, NDArray[Any]] = {
        "latent": np.arange(len(density), dtype=np.uint32),
        "density": density,
        "image_density": (firing.image_fires.double() / int(firing.images.max())).numpy(),
        "mean": (firing.total.sum(0) / rows).numpy(),
        "maximum": firing.maximum.amax(0).numpy(),
        "max_cosine": like.cosine.cpu().numpy().astype(np.float64),
        "nearest": like.latent.cpu().numpy().astype(np.uint32),
        "dead": density == 0,
        "always_on": density >= ALWAYS_ON,
    }
    return pa.table(columns)


def profile_table(firing: Firing) -> pa.Table:
    """One row a (latent, timestep), latent by latent, noisiest first."""
    steps, latents = firing.fires.shape
    rows = firing.rows[:, None]
    columns = {
        "latent": np.repeat(np.arange(latents, dtype=np.uint32), steps),
        "timestep": np.tile(np.array(firing.timesteps, dtype=np.int32), latents),
        "density": (firing.fires.double() / rows).T.reshape(-1).numpy(),
        "mean": (firing.total / rows).T.reshape(-1).numpy(),
        "maximum": firing.maximum.T.reshape(-1).numpy(),
    }
    return pa.table(columns)


def example_table(gathered: Gathered, requests: list[Request]) -> pa.Table:
    """One row a (latent, rank) at which the latent fires; rank 1 is its largest of all."""
    top = gathered.examples
    ranks, latents = (top.value.T > 0).nonzero(as_tuple=True)[::-1]
    chosen = [requests[i] for i in top.image[ranks, latents].tolist()]
    heat = top.heat[ranks, :, latents].numpy()
    columns = {
        "latent": latents.numpy().astype(np.uint32),
        "rank": (ranks.numpy() + 1).astype(np.int32),
        "prompt_id": pa.array([r.prompt.id for r in chosen], pa.string()),
        "image_index": np.array([r.index for r in chosen], dtype=np.int32),
        "timestep": top.timestep[ranks, latents].numpy().astype(np.int32),
        "position": top.position[ranks, latents].numpy().astype(np.int32),
        "value": top.value[ranks, latents].numpy().astype(np.float32),
        "heat": pa.array([row.tobytes() for row in heat], pa.binary()),
    }
    return pa.table(columns)


def step_table(gathered: Gathered, losses: list[Loss]) -> pa.Table:
    """One row a (timestep, half), noisiest first; losses are null at timesteps that were not noised to."""
    lost = {(loss.timestep, loss.half): loss for loss in losses}
    keys = sorted(gathered.moments, key=lambda key: (-key[0], key[1]))
    moments = [gathered.moments[key] for key in keys]
    columns = {
        "timestep": pa.array([t for t, _ in keys], pa.int32()),
        "half": pa.array([half for _, half in keys], pa.string()),
        "rows": pa.array([m.rows for m in moments], pa.int64()),
        "fvu": pa.array([m.fvu for m in moments], pa.float64()),
        "relative": pa.array([m.relative for m in moments], pa.float64()),
        "l0": pa.array([m.l0 for m in moments], pa.float64()),
    }
    for kind in ("clean", "sae", "zero"):
        values = [getattr(lost[key], kind) if key in lost else None for key in keys]
        columns[f"loss_{kind}"] = pa.array(values, pa.float64())
    return pa.table(columns)


def _figures(
    job: DiagnosisJob,
    gathered: Gathered,
    dark: DarkMatter,
    losses: list[Loss],
    latents: pa.Table,
    requests: list[Request],
) -> dict[str, Any]:
    halves = {}
    for half in HALVES:
        parts = [m for (_, h), m in gathered.moments.items() if h == half]
        if parts:
            whole = pooled(parts)
            halves[half] = {"rows": whole.rows, "fvu": whole.fvu, "relative": whole.relative, "l0": whole.l0}
    lost = {half: [loss for loss in losses if loss.half == half] for half in halves}
    return {
        "images": len(requests),
        "prompts": len({r.prompt.id for r in requests}),
        "half": job.config.half,
        "read": job.config.read,
        "grid": list(gathered.grid),
        "timesteps": gathered.firing.timesteps,
        "halves": halves,
        "dead": int(np.sum(latents["dead"].to_numpy())),
        "always_on": int(np.sum(latents["always_on"].to_numpy())),
        "max_cosine": float(np.mean(latents["max_cosine"].to_numpy())),
        "dark_matter": {
            "fit_rows": dark.fit_rows,
            "test_rows": dark.test_rows,
            "encoder": _errors(dark.encoder),
            "pursuit": _errors(dark.pursuit),
        },
        "loss": {
            "images": min(len(requests), job.config.loss_images),
            "timesteps": len({loss.timestep for loss in losses}),
            "recovered": recovered(losses),
            "halves": {half: recovered(found) for half, found in lost.items()},
        },
    }


def _errors(errors: Errors) -> dict[str, float | None]:
    return {**errors._asdict(), "fvu_linear": errors.fvu_linear}
