"""Measure an SAE on held-out images, and its similarity to another SAE.

diagnosis.json      figures of the SAE as a whole
steps.parquet       FVU, L0 and denoising losses per (timestep, half)
latents.parquet     density, largest value and decoder cosine per latent
profiles.parquet    density and values per (latent, timestep)
examples.parquet    images with the largest values of each latent, and its maps over each
images.tar          these images, as PNG
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from saeuron.config import ModelConfig
from saeuron.errors import WidthMismatch
from saeuron.generation import Request
from saeuron.pages.pictures import png_of
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.dark_matter import DarkMatter, Errors, dark_matter
from saeuron.sae.diagnosis.denoising import Loss, denoising_losses, recovered
from saeuron.sae.diagnosis.dictionary import chance, nearest
from saeuron.sae.diagnosis.gathering import ALWAYS_ON, HALVES, Firing, Gathered, Reader, held_out
from saeuron.sae.moments import pooled
from storage.catalog.diagnosis import FILES, MAPS, STABILITY_COLUMNS, write_examples
from storage.dense import shards
from storage.files import write_json
from storage.tables import table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

FIGURES, STEPS, LATENTS, PROFILES, EXAMPLES, IMAGES = (
    "diagnosis.json", "steps.parquet", "latents.parquet", "profiles.parquet", "examples.parquet", "images.tar",
)  # fmt: skip
STABILITY = "stability.parquet"


class DiagnosisSummary(Summary):
    """Figures of an SAE on held-out images, for the half of the batch that was read."""

    sae_id: str
    hookpoint: str
    fvu: float
    l0: float
    dead: int
    always_on: int
    linear: float | None
    """Share of the squared error that is linear in the activations; None: unknown."""
    fvu_pursuit: float
    """FVU when gradient pursuit chooses as many latents as the encoder."""
    recovered: float | None
    """Share of the denoising loss that the reconstruction recovers; None: unknown."""
    images: int


class DiagnosisJob(Job):
    """The measurement of one SAE on held-out images."""

    stage: ClassVar[str] = "diagnosis"
    version: ClassVar[int] = 4
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
    """Similarity of an SAE to another, as means over its latents."""

    sae_id: str
    against_id: str
    stability: float
    """Mean of the largest cosine of each decoder row to a row of the other SAE."""
    encoder: float
    """Mean cosine of the encoder rows of these pairs."""
    chance: float
    """Expected `stability` for random directions."""


class StabilityJob(Job):
    """The comparison of one SAE with another."""

    stage: ClassVar[str] = "stability"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{sae_id} against {against_id}"
    summary_type: ClassVar[type[Summary]] = StabilitySummary
    command: ClassVar[str] = "saeuron sae report {sae_id} --against {against_id}"

    sae_id: str
    against_id: str


def images(job: DiagnosisJob) -> list[Request]:
    """The held-out images. Raises BadPrompts: the prompt set has no test prompts."""
    return held_out(prompt_sets.read(job.open, job.prompts_id), job.config)


@step("diagnose")
def diagnose(job: DiagnosisJob) -> Made:
    """Generate the images, read the activations, measure, and write the tables."""
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
    write_examples(job.folder / EXAMPLES, example_table(gathered, requests))
    write_json(job.folder / FIGURES, figures)
    own = figures["halves"][job.config.half]
    summary = DiagnosisSummary(
        sae_id=job.sae_id,
        hookpoint=sae.info.hookpoint,
        **{name: own[name] for name in ("fvu", "l0")},
        dead=figures["dead"],
        always_on=figures["always_on"],
        linear=dark.encoder.linear,
        fvu_pursuit=dark.pursuit.fvu,
        recovered=figures["loss"]["recovered"],
        images=len(requests),
    )
    return commit(job, {"sae": job.sae_id, "prompts": job.prompts_id}, summary, clock)


def check_widths(sae: str, width: int, against: str, other: int) -> None:
    """Raise WidthMismatch if two SAEs read activations of different widths."""
    if width != other:
        raise WidthMismatch(f"{against} has width {other}, {sae} has {width}; compare SAEs of one hookpoint.")


@step("stability")
def stability(job: StabilityJob) -> Made:
    """Pair each latent with the nearest decoder row of the other SAE; write `stability.parquet`.

    Raises:
        WidthMismatch: the SAEs have different widths.
    """
    clock = Clock()
    mine, other = (SAE.load(job.open.whole(i), job.device) for i in (job.sae_id, job.against_id))
    check_widths(job.sae_id, mine.info.width, job.against_id, other.info.width)
    found = nearest(mine.W_dec, other.W_dec)
    cosine = found.cosine.cpu().double()
    columns = [np.arange(mine.info.n_latents), cosine.numpy(), found.latent.cpu().numpy()]
    write_table(job.folder / STABILITY, pa.table(columns, schema=STABILITY_COLUMNS))
    encoders = torch.nn.functional.cosine_similarity(mine.W_enc.float(), other.W_enc[found.latent].float(), dim=1)
    summary = StabilitySummary(
        sae_id=job.sae_id,
        against_id=job.against_id,
        stability=float(cosine.mean()),
        encoder=float(encoders.double().mean()),
        chance=chance(mine.info.n_latents, other.info.n_latents, mine.info.width),
    )
    return commit(job, {"sae": job.sae_id, "against": job.against_id}, summary, clock)


def latent_table(sae: SAE, firing: Firing) -> pa.Table:
    """One row per latent, over all steps of the half that was read."""
    rows = int(firing.rows.sum())
    like = nearest(sae.W_dec)
    density = (firing.fires.sum(0).double() / rows).numpy()
    columns: dict[str, NDArray[Any]] = {
        "latent": np.arange(len(density)),
        "density": density,
        "image_density": (firing.image_fires.double() / int(firing.images.max())).numpy(),
        "mean": (firing.total.sum(0) / rows).numpy(),
        "maximum": firing.maximum.amax(0).numpy(),
        "max_cosine": like.cosine.cpu().numpy(),
        "nearest": like.latent.cpu().numpy(),
        "dead": density == 0,
        "always_on": density >= ALWAYS_ON,
    }
    return pa.table(columns, FILES["latent"])


def profile_table(firing: Firing) -> pa.Table:
    """One row per (latent, timestep), latent by latent, noisiest step first."""
    steps, latents = firing.fires.shape
    rows = firing.rows[:, None]
    columns = {
        "latent": np.repeat(np.arange(latents), steps),
        "timestep": np.tile(firing.timesteps, latents),
        "density": (firing.fires.double() / rows).T.reshape(-1).numpy(),
        "mean": (firing.total / rows).T.reshape(-1).numpy(),
        "maximum": firing.maximum.T.reshape(-1).numpy(),
    }
    return pa.table(columns, FILES["profile"])


def example_table(gathered: Gathered, requests: list[Request]) -> pa.Table:
    """One row per (latent, chosen image), by rank; only the first ranks have maps."""
    top = gathered.examples
    places, latents = (top.mean.T > 0).nonzero(as_tuple=True)[::-1]
    chosen = [requests[i] for i in top.image[places, latents].tolist()]
    cells = list(zip(places.tolist(), latents.tolist(), strict=True))
    maps = {
        name: [of[place, :, latent].tobytes() if place < len(of) else None for place, latent in cells]
        for name, of in zip(MAPS, (each.numpy() for each in (top.heat, *top.thirds)), strict=False)
    }
    columns = {
        "latent": latents.numpy(),
        "rank": top.rank[places, latents].numpy(),
        "prompt_id": [r.prompt.id for r in chosen],
        "image_index": [r.index for r in chosen],
        "mean": top.mean[places, latents].float().numpy(),
        "timestep": top.timestep[places, latents].numpy(),
        "position": top.position[places, latents].numpy(),
        "value": top.value[places, latents].numpy(),
        **{name: maps.get(name, [None] * len(cells)) for name in MAPS},
    }
    return pa.table(columns, FILES["example"])


def step_table(gathered: Gathered, losses: list[Loss]) -> pa.Table:
    """One row per (timestep, half), noisiest first; losses are null at timesteps without a denoising loss."""
    lost = {(loss.timestep, loss.half): loss for loss in losses}
    keys = sorted(gathered.moments, key=lambda key: (-key[0], key[1]))
    rows = [
        {"timestep": t, "half": half}
        | {name: getattr(gathered.moments[t, half], name) for name in ("rows", "fvu", "relative", "l0")}
        | {f"loss_{kind}": getattr(lost.get((t, half)), kind, None) for kind in ("clean", "sae", "zero")}
        for t, half in keys
    ]
    return table(rows, FILES["step"])


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
            halves[half] = {name: getattr(whole, name) for name in ("rows", "fvu", "relative", "l0")}
    lost = {half: [loss for loss in losses if loss.half == half] for half in halves}
    return {
        "images": len(requests),
        "prompts": len({r.prompt.id for r in requests}),
        "half": job.config.half,
        "read": job.config.read,
        "grid": list(gathered.grid),
        "timesteps": gathered.firing.timesteps,
        "halves": halves,
        **{name: int(np.sum(latents[name].to_numpy())) for name in ("dead", "always_on")},
        "norms": [norm._asdict() for norm in gathered.norms],
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
