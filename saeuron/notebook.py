"""The whole method in five calls, for notebooks: capture, train, score, tune, evaluate; and one to look at a latent.

Everything stays in memory: no workspace, no cache, no resume. `saeuron run` makes the same of a configuration, on disk.
Keyword arguments beyond those named are fields of the stage's configuration in `saeuron/config.py`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from saeuron import capturing, evaluation, judges, methods, scoring, tuning
from saeuron.config import CaptureConfig, EvaluateConfig, ModelConfig, ScoreConfig, TuneConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.figures import metrics
from saeuron.hooks import device_of
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal
from saeuron.pages.contents import Example, Latent
from saeuron.pages.sheet import sheet
from saeuron.profiles import DomainTotals, profile
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.gathering import Reader, held_out
from saeuron.sae.streams import in_memory, rows_in
from saeuron.sae.training import Trainer, together


def capture(
    pipe: Any,
    prompts: Sequence[Prompt],
    hookpoints: Sequence[str],
    *,
    model: ModelConfig | None = None,
    **settings: Any,
) -> dict[str, NDArray[Any]]:
    """Generate the training prompts and keep what the hookpoints gave.

    Args:
        prompts: a prompt set, see `prompt_set`; its training prompts are generated.
        model: how the pipeline is sampled: steps, guidance, images per micro-batch.
        settings: fields of `CaptureConfig`.

    Returns:
        {hookpoint: rows [M, D], one per image, step and position}; float16, or the bits of bfloat16 as uint16.

    Raises:
        UnknownName: the pipeline has no such hookpoint.
        BadPrompts: there are no training prompts.
    """
    config, rows = CaptureConfig(**settings), {h: list[NDArray[Any]]() for h in hookpoints}
    images = capturing.images(prompts, config)
    for _, _, arrays, _ in capturing.capture(pipe, images, hookpoints, model or ModelConfig(), config):
        for hookpoint, array in arrays.items():
            rows[hookpoint].append(array.reshape(-1, array.shape[-1]))
    return {hookpoint: np.concatenate(found) for hookpoint, found in rows.items()}


def train(rows: Mapping[str, NDArray[Any]], *, device: str | torch.device = "cpu", **settings: Any) -> dict[str, SAE]:
    """One trained SAE for each hookpoint.

    Args:
        rows: {hookpoint: rows [M, D]}, such as `capture` gives; float16, float32, or the bits of bfloat16 as uint16.
        settings: fields of `SAEConfig`, such as variant, k, expansion, steps, batch.

    Raises:
        ConfigError: the settings fit no SAE of this width, or ask for what needs rows on disk or labels of rows.
    """
    config, saes = SAEConfig(**settings), {}
    if config.processes > 1 or config.order != "mixed":
        raise ConfigError(
            "train.processes and train.order are for captures on disk: leave them out, or use `saeuron run`."
        )
    for hookpoint, found in rows.items():
        stream = in_memory(found, config.batch, config.seed)
        trainer = Trainer(config, found.shape[1], hookpoint, device)
        trainer.initialise(rows_in(next(stream(0))))
        together([trainer], stream, {})
        saes[hookpoint] = trainer.sae
    return saes


def score(
    pipe: Any,
    saes: Mapping[str, SAE],
    prompts: Sequence[Prompt],
    domain: str,
    *,
    score_on: str = "crossed",
    model: ModelConfig | None = None,
    **settings: Any,
) -> dict[str, Evidence]:
    """Measure which latents belong to each concept of a domain, by generating training images of every one.

    Args:
        saes: {hookpoint: SAE}, such as `train` gives.
        score_on: `crossed` takes prompts that name a concept of another domain too, `plain` those that name no other.
        settings: fields of `ScoreConfig`, such as images, the number per concept.

    Returns:
        {concept: what a method makes its removal from}.

    Raises:
        UnknownName: no prompt names the domain.
        BadPrompts: a concept has no such training prompts.
        ConfigError: the domain has one concept, which leaves nothing to compare it with.
    """
    config, model = ScoreConfig(**settings), model or ModelConfig()
    if score_on not in ("crossed", "plain"):
        raise UnknownName("kind of scoring prompts", score_on, ("crossed", "plain"), "(score_on)")
    concepts, device, totals = _concepts(prompts, domain), device_of(pipe), {}
    if len(concepts) < 2:
        raise ConfigError(f"domain {domain!r} has the one concept {concepts[0]!r}; expected others to compare it with.")
    wanted = {c: scoring.images(prompts, config, domain, c, score_on) for c in concepts}
    for concept, images in wanted.items():
        readers = [(h, scoring.Accumulator(sae.to(device), config.half, config.every)) for h, sae in saes.items()]
        totals[concept] = dict(zip(saes, scoring.gather(pipe, readers, images, model, config.seed), strict=True))
    of_domain = {h: DomainTotals.of(totals[c][h] for c in concepts) for h in saes}
    profiles = {c: {h: profile(totals[c][h], of_domain[h]) for h in saes} for c in concepts}
    return {c: Evidence(c, domain, tuple(saes), saes=dict(saes), profiles=profiles[c]) for c in concepts}


def tune(
    pipe: Any,
    evidence: Evidence,
    prompts: Sequence[Prompt],
    *,
    method: str = "saeuron",
    grid: Mapping[str, Sequence[Any]] | None = None,
    judge: str | Mapping[str, str] = "canvas",
    model: ModelConfig | None = None,
    **settings: Any,
) -> Removal:
    """The best removal that a method makes of its settings, by (UA + IRA + CRA) / 3 on validation images.

    Args:
        evidence: an entry of what `score` gives; for a method that needs no SAEs `Evidence(concept, domain)`, with the
            hookpoints that it edits, if any.
        method: a name of `saeuron.methods`.
        grid: {setting: values to try}; what is not named has the method's own values.
        judge: who judges the domains of the prompts, for all or {domain: judge}; see `saeuron.judges`.
        settings: fields of `TuneConfig`, such as target_images, retained_images.

    Raises:
        UnknownName: there is no such method, setting, judge, or no label for a concept.
        BadPrompts: there are no validation prompts for the concept, or for others beside it.
    """
    config, model, chosen = TuneConfig(**settings), model or ModelConfig(), methods.get(method)
    todo, concept, domain = chosen.candidates(grid or {}), evidence.concept, evidence.domain
    reference, watching = _concepts(prompts, domain), _judges(pipe, judge, prompts)
    images = tuning.validation_images(prompts, config, domain, concept, reference)
    evidence = replace(evidence, pipe=pipe, model=model, half=config.half, seed=config.seed)
    target, others = tuning.learning_images(chosen.needs, prompts, config, domain, concept, reference)
    evidence = replace(evidence, target=target, others=others)
    if "prompts" in chosen.needs:
        asked, retained = tuning.learning_prompts(prompts, config, domain, concept, reference)
        evidence = replace(evidence, asked=asked, retained=retained)
    if "latents" in chosen.needs and not evidence.profiles:
        raise ConfigError(f"the method {method!r} needs SAEs and scores; give it what saeuron.score returns.")
    found = tuning.candidates(chosen, evidence, todo, {"model": str(getattr(pipe, "name_or_path", ""))})
    return tuning.tune(pipe, found, images, watching, model=model, seed=config.seed)[0].removal


def evaluate(
    pipe: Any,
    removal: Removal,
    prompts: Sequence[Prompt],
    *,
    judge: str | Mapping[str, str] = "canvas",
    model: ModelConfig | None = None,
    **settings: Any,
) -> list[metrics.Metric]:
    """UA, IRA, CRA of a removal with 95 % intervals, on images of the test prompts, with it and without.

    Args:
        judge: who judges the domains of the prompts, as for `tune`.
        settings: fields of `EvaluateConfig`, such as seeds, the number of images per prompt.

    Raises:
        BadPrompts: there are no test prompts.
        UnknownName: there is no such judge, or no label for a concept.
    """
    config, model, watching = EvaluateConfig(**settings), model or ModelConfig(), _judges(pipe, judge, prompts)
    images = evaluation.images(prompts, config, (removal.domain, removal.concept))
    edited, unedited = (evaluation.look(pipe, r, images, watching, model, config.seed) for r in ([removal], []))
    return metrics.evaluate(removal.domain, removal.concept, list(watching), edited, unedited)


def top_images(
    pipe: Any, sae: SAE, prompts: Sequence[Prompt], latent: int, *, model: ModelConfig | None = None, **settings: Any
) -> Image.Image:
    """A picture of a latent: the images in which it fires most, with the latent over each, and its mean at each step.

    Args:
        prompts: a prompt set; images of its test prompts are generated.
        settings: fields of `DiagnosisConfig`: images, of which it chooses, examples, how many of them it shows.

    Raises:
        BadPrompts: there are no test prompts.
        ConfigError: the SAE has no such latent.
    """
    config, model, count = DiagnosisConfig(**settings), model or ModelConfig(), sae.info.n_latents
    if not 0 <= latent < count:
        raise ConfigError(f"there is no latent {latent}: this SAE has {count}; give a number from 0 to {count - 1}.")
    requests, pictures = held_out(prompts, config), list[NDArray[Any]]()
    reader = Reader(pipe, sae, requests, model.steps, config)
    for _, made in reader.over(pipe, model):
        pictures += list(made)
    found = reader.gathered()
    top, firing, (height, width) = found.examples, found.firing, found.grid

    def over(maps: torch.Tensor, place: int) -> NDArray[Any]:
        return maps[place, :, latent].numpy().reshape(height, width)

    shown = [
        Example(
            requests[image].key,
            requests[image].prompt.text,
            pictures[image],
            over(top.heat, i) if i < len(top.heat) else None,
            float(top.value[i, latent]),
            int(top.timestep[i, latent]),
            *divmod(int(top.position[i, latent]), width),
            int(top.rank[i, latent]),
            thirds=[over(maps, i) for maps in top.thirds] if i < len(top.heat) else (),
        )
        for i, image in enumerate(top.image[:, latent].tolist())
        if top.mean[i, latent] > 0
    ]
    rows, total = firing.rows.sum(), firing.total[:, latent]
    record = Latent(
        latent,
        density=float(firing.fires[:, latent].sum() / rows),
        image_density=float(firing.image_fires[latent] / len(requests)),
        mean=float(total.sum() / rows),
        maximum=float(firing.maximum[:, latent].max()),
        max_cosine=float("nan"),
        nearest=latent,
        stability=None,
        timesteps=firing.timesteps,
        profile=(total / firing.rows).tolist(),
        examples=shown,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = sheet(record, f"latent {latent}", Path(folder) / "sheet.png")
        return Image.open(path).convert("RGB")


def _concepts(prompts: Sequence[Prompt], domain: str) -> list[str]:
    """The concepts of a domain that prompts name, sorted."""
    found = sorted({p.concepts[domain] for p in prompts if domain in p.concepts})
    if not found:
        raise UnknownName("domain", domain, {d for p in prompts for d in p.concepts}, "(of the prompts)")
    return found


def _judges(pipe: Any, judge: str | Mapping[str, str], prompts: Sequence[Prompt]) -> dict[str, judges.Judge]:
    """{domain: who judges it}, for every domain that prompts name; each knows a label for every concept."""
    found = {}
    for domain in sorted({d for p in prompts for d in p.concepts}):
        spec = judge if isinstance(judge, str) else judge.get(domain, judges.NONE)
        judges.check(spec, domain, _concepts(prompts, domain))
        found[domain] = judges.create(spec, domain, device=str(device_of(pipe)))
    return found
