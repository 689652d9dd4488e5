"""Tests that train more SAEs: with an attribute taken away, on planted rows, and with several widths."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saeuron.errors import ConfigError
from saeuron.figures.metrics import wilson
from saeuron.generation import Request, generate, spread
from saeuron.inspection.ranks import spearman
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.pipelines.patching import interval
from saeuron.profiles import Profile
from saeuron.prompts import choose
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.proofs import control, occlusion, splitting
from saeuron.sae.proofs.rows import Rows, fitted, strengths
from saeuron.scoring import share
from tasks.engine import progress

if TYPE_CHECKING:
    from tasks.sae.proof_tests import Bench

Asked = dict[str, list[str | None]]
"""{split: the concept that each image asks for, or None}."""


def occluded(bench: "Bench") -> list[dict[str, Any]]:
    """Test 4: count latents for the quiet attribute while the loud one is taken away, and on planted rows."""
    rows, config = list[dict[str, Any]](), bench.job.config
    if len(bench.rows["train"].domains) < 2:
        raise ConfigError("the test occlusion needs prompts that ask for two domains, such as object and style.")
    loud, quiet = occlusion.louder(bench.attributes)
    asked: Asked = {split: [a.get(quiet) for a in r.asked] for split, r in bench.rows.items()}
    ways = {"trained": bench.attributes, "astray": occlusion.astray(bench.attributes, loud, config.seed)}
    factor = occlusion.residual_factor(bench.rows["train"], bench.attributes)
    total, done = len(ways) * len(config.alphas) + len(config.rhos), 0
    counts: dict[str, list[int]] = {}
    for kind, attributes in ways.items():
        for alpha in config.alphas:
            progress.tell("SAEs without a part of an attribute", done, total, "SAEs")
            parts = {s: occlusion.without(r, attributes, loud, alpha) for s, r in bench.rows.items()}
            counts.setdefault(kind, []).append(splitting.count(_fires(bench, recipe(bench), parts, asked)))
            done += 1
    for i, alpha in enumerate(config.alphas):
        more = {"setting": alpha, "control": float(counts["astray"][i])}
        rows.append(bench.row("trained", quiet, f"latents, {loud} less", counts["trained"][i], config.images, **more))
    trend = spearman(list(config.alphas), [float(c) for c in counts["trained"]])
    astray = spearman(list(config.alphas), [float(c) for c in counts["astray"]])
    rows.append(bench.row("trained", quiet, "rank correlation", trend, len(config.alphas), control=astray))
    found = []
    for rho in config.rhos:
        progress.tell("SAEs of planted rows", done, total, "SAEs")
        parts = {
            split: occlusion.planted(r, bench.attributes, loud, quiet, rho, factor, config.seed, split)
            for split, r in bench.rows.items()
        }
        found.append(splitting.count(_fires(bench, recipe(bench), parts, asked)))
        rows.append(bench.row("planted", quiet, f"latents, {loud} louder", found[-1], config.images, setting=rho))
        done += 1
    trend = spearman(list(config.rhos), [float(c) for c in found])
    rows.append(bench.row("planted", quiet, "rank correlation", trend, len(config.rhos)))
    return rows


def widened(bench: "Bench") -> list[dict[str, Any]]:
    """Test 5: how concepts split, and removals with few latents, at each width; planted parts at the largest."""
    job, rows, config = bench.job, list[dict[str, Any]](), bench.job.config
    base = recipe(bench)
    for i, width in enumerate(config.widths):
        progress.tell("widths", i, len(config.widths), "SAEs")
        how = base.model_copy(update={"expansion": width})
        sae = fitted(how, bench.rows["train"].values, bench.hookpoint, job.device)
        named = {split: strengths(sae, bench.rows[split]) for split in ("validation", "test")}
        for domain in bench.rows["test"].domains:
            asks = {s: [a.get(domain) for a in bench.rows[s].asked] for s in named}
            fires = splitting.of(named["validation"], asks["validation"], named["test"], asks["test"])
            found = [splitting.names(fires, concept) for concept in sorted(fires.judged_shows)]
            for measure in splitting.Names._fields:
                values = [float(getattr(each, measure)) for each in found]
                low, high = _interval(values, config.seed)
                more = {"setting": float(width), "low": low, "high": high}
                rows.append(bench.row("trained", domain, measure, float(np.mean(values)), len(values), **more))
        rows += _removals(bench, sae, width)
    largest = base.model_copy(update={"expansion": max(config.widths)})
    factor = occlusion.residual_factor(bench.rows["train"], bench.attributes)
    length = 4 * float(factor.square().sum()) ** 0.5 / factor.shape[0] ** 0.5
    for plant in occlusion.PLANTS:
        made = {s: occlusion.clusters(r, plant, factor, length, config.seed, s) for s, r in bench.rows.items()}
        parts, asked = {s: r for s, (r, _) in made.items()}, {s: a for s, (_, a) in made.items()}
        fires = _fires(bench, largest, parts, asked)
        value = splitting.split(fires.judged, fires.judged_shows["yes"])
        more = {"setting": float(max(config.widths))}
        rows.append(bench.row("planted", plant, "split", float(value), config.images, **more))
    return rows


def recipe(bench: "Bench") -> SAEConfig:
    """Training settings of a test's SAEs. Raises ConfigError if the tested SAE was not trained in this workspace."""
    if bench.job.train is None:
        raise ConfigError(
            f"{bench.job.sae_id} was not trained in this workspace, so nothing says how; the tests occlusion and width "
            "are for SAEs that were."
        )
    return bench.job.train.model_copy(update={"steps": bench.job.config.fit_steps})


def _fires(
    bench: "Bench", config: SAEConfig, parts: Mapping[str, Rows], asked: Mapping[str, Sequence[str | None]]
) -> splitting.Fires:
    """Train an SAE on the training rows; where its latents fire on validation and test rows."""
    sae = fitted(config, parts["train"].values, bench.hookpoint, bench.job.device)
    chosen, judged = (strengths(sae, parts[split]) for split in ("validation", "test"))
    return splitting.of(chosen, asked["validation"], judged, asked["test"])


def _removals(bench: "Bench", sae: SAE, width: int) -> list[dict[str, Any]]:
    """UA of removals of the best n latents, by domain."""
    job, config, rows = bench.job, bench.job.config, list[dict[str, Any]]()
    for domain in [d for d in bench.rows["train"].domains if d in job.judges]:
        means = control.profiles(sae, bench.rows["train"], domain).latents
        concepts = sorted(means)[:: max(1, len(means) // max(config.removed, 1))][: config.removed]
        for n in config.latents:
            gone = total = 0
            for concept in concepts:
                if n > sae.info.n_latents:
                    continue
                edit = build_edit(sae, profile(bench, means, concept), n, config.gamma, scale="share")
                with removed(bench.pipe, [Removal(concept, domain, "saeuron", {"n": n}, (edit,))], any_model=True):
                    for batch, pictures in generate(bench.pipe, asking(bench, domain, concept), job.model, config.seed):
                        seen = job.judges[domain].look(domain, pictures, job.device)
                        gone += sum(s.label != concept for s in seen)
                        total += len(batch)
            if total:
                low, high = wilson(gone, total)
                more = {"setting": float(width), "low": low, "high": high}
                rows.append(bench.row("trained", domain, f"UA, n {n}", gone / total, total, **more))
    return rows


def profile(bench: "Bench", means: Mapping[str, torch.Tensor], concept: str) -> Profile:
    """The statistics that a removal needs, from mean activations of a domain's concepts, {concept: [S, N]}."""
    every = torch.stack(list(means.values()))
    own, other = means[concept], torch.stack([m for name, m in means.items() if name != concept]).mean(0)
    timesteps = torch.tensor(bench.rows["train"].timesteps)
    return Profile(timesteps, own, every.mean(0), share(own.double()) - share(other.double()))


def asking(bench: "Bench", domain: str, concept: str) -> list[Request]:
    """Test images that ask for a concept, one of each prompt in turn."""
    found = [p for p in bench.prompts if p.split == "test" and p.concepts.get(domain) == concept]
    count = bench.job.config.removal_images
    return spread(choose(found, min(count, len(found)), bench.job.config.seed), count)


def _interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean over concepts, by a bootstrap."""
    return interval(np.array(values), seed)
