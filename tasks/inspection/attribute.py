"""The sources of one latent's activation: words of the prompts and heads, beside latents drawn at random.

attributions.parquet   each head and token of each image and step in which a latent fires
head_latents.parquet   the heads' shares of each latent
"""

from collections import defaultdict
from typing import Any, ClassVar

import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import Request
from saeuron.inspection.heads import Z
from saeuron.inspection.words import attention_of, attribute, head_shares, tokens
from saeuron.noise import generator
from saeuron.sae.autoencoder import SAE
from storage.declared import View
from storage.tables import ATTRIBUTIONS, HEAD_LATENTS, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class AttributionSummary(Summary):
    """Summary of an attribution."""

    sae_id: str
    hookpoint: str
    latent: int
    images: int
    controls: int
    """Random latents that fire on the same images."""


class AttributionJob(Job):
    """One latent, on some images."""

    stage: ClassVar[str] = "attribution"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "latent {latent}"
    summary_type: ClassVar[type[Summary]] = AttributionSummary
    views: ClassVar[tuple[View, ...]] = (ATTRIBUTIONS, HEAD_LATENTS)
    command: ClassVar[str] = "saeuron latent show {sae_id} {latent} --attribution"

    model: ModelConfig
    model_id: str
    sae_id: str
    latent: int
    images: tuple[tuple[str, int], ...]
    """(prompt id, index) of each; those in which the latent fires most."""
    seed: int
    """Seed of the images' noise."""
    random: int = 8
    """Latents drawn for the control."""
    prompts_id: str


@step("attribution")
def attributed(job: AttributionJob) -> Made:
    """Generate the images, attribute the latent and the random ones, and write the tables.

    Raises:
        ConfigError: the SAE is not at a cross-attention, or the latent fires on none of the images.
    """
    clock = Clock()
    sae = SAE.load(job.open.whole(job.sae_id), job.device)
    pipe = model.pipeline(job.model, job.device)
    _, module = attention_of(pipe, sae.info.hookpoint)
    order = torch.randperm(sae.info.n_latents, generator=generator(job.seed, "attribution", job.latent)).tolist()
    latents = [job.latent, *[i for i in order if i != job.latent][: job.random]]
    known = {p.id: p for p in prompt_sets.read(job.open, job.prompts_id)}
    images = [Request(known[name], index) for name, index in job.images]
    words = {p: tokens(pipe, known[p]) for p, _ in job.images}

    rows: list[dict[str, Any]] = []
    positive: dict[int, torch.Tensor] = defaultdict(lambda: torch.zeros(module.heads, dtype=torch.float64))
    for batch, steps in attribute(pipe, sae, latents, images, job.model, job.seed):
        for at in steps:
            for b, n in at.fires.nonzero().tolist():
                value, fires, request = at.value[b, :, :, n], int(at.fires[b, n]), batch[b]
                positive[n] += fires * value.clamp(min=0).sum(1).double()
                for head in range(module.heads):
                    for token, word in enumerate(words[request.prompt.id]):
                        rows.append(
                            {
                                "sae_id": job.sae_id,
                                "latent": latents[n],
                                "control": n > 0,
                                "prompt_id": request.prompt.id,
                                "image_index": request.index,
                                "timestep": at.timestep,
                                "head": head,
                                "token": token,
                                "word": word.word,
                                "role": word.role,
                                "value": float(value[head, token]),
                                "fires": fires,
                            }
                        )
    if 0 not in positive:
        raise ConfigError(f"latent {job.latent} fires on none of {len(images)} images, so it has no words.")
    write_table(job.folder / ATTRIBUTIONS.file, table(rows, ATTRIBUTIONS))
    # Norms of the decoder's rows are those of heads where the SAE reads z, their outputs side by side.
    norms = {n: head_shares(sae, latents[n], module.heads) for n in positive} if sae.info.hookpoint.endswith(Z) else {}
    shares = [
        {
            "sae_id": job.sae_id,
            "latent": latents[n],
            "control": n > 0,
            "head": head,
            "decoder": float(norms[n][head]) if n in norms else None,
            "attributed": float(of[head] / of.sum().clamp(min=1e-12)),
        }
        for n, of in sorted(positive.items())
        for head in range(module.heads)
    ]
    write_table(job.folder / HEAD_LATENTS.file, table(shares, HEAD_LATENTS))
    summary = AttributionSummary(
        sae_id=job.sae_id,
        hookpoint=sae.info.hookpoint,
        latent=job.latent,
        images=len(images),
        controls=len(positive) - 1,
    )
    return commit(job, {"sae": job.sae_id, "prompts": job.prompts_id}, summary, clock)
