"""Are explanations of latents right, and is their confidence honest? On new images, with controls.

    saeuron run canvas --set train.variant=matryoshka -w W && saeuron sae explain HOOKPOINT -w W
    python -m benchmarks.inspection.explaining HOOKPOINT --workspace W

`saeuron sae explain` chooses rules on validation images and judges them on test images; its table has the shares that
were asked for. Here the same rules are judged a third time, on test prompts with other noise, with the figures of each
kind of dictionary (trained, frozen, untrained, neurons):

- honest: of the latents with a confidence of at least 0.8, how many have an F1 of at least 0.8 again; their balanced
  accuracy on ten images on which they fire and ten on which they are silent (as in Delphi);
- localisation: AUROC of a latent over positions against the mask of its object, on renders noised to a timestep, of the
  latents whose rule is one object with an F1 of at least 0.8; control: the mask of a picture of another object, and
  another latent that fires there;
- breadth: values that a latent fires on in at least a fifth of their images, by the nested groups of a Matryoshka SAE
  (1/16, 1/8, ... of the latents, in their order), as a rank correlation; control: the same cuts of the other kinds.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.results import Figure, parser, show
from flows.run import Run
from flows.sae.explain import explain_job
from saeuron.canvas.renderer import masks, render
from saeuron.canvas.vocabularies import vocabulary_named
from saeuron.figures.metrics import wilson
from saeuron.generation import generate
from saeuron.hooks import Step, attached, to_rows
from saeuron.inspection.ranks import resampled, spearman
from saeuron.noise import generator
from saeuron.pipelines import family_of
from saeuron.pipelines.patching import interval
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import MatryoshkaOptions
from saeuron.sae.diagnosis.denoising import evenly
from saeuron.sae.diagnosis.detection import Encoder, Strengths, auroc, neurons
from saeuron.sae.diagnosis.explanations import Labels, Rule, agreement
from storage import Workspace
from storage.tables import EXPLANATIONS, read_table
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.registry import runs
from tasks.registry.saes import find
from tasks.sae.explain import ExplainJob, shown
from tasks.sae.prove import NEURONS, batches, images

GOOD, WIDE = 0.8, 0.2
"""F1 and confidence of a good rule; share of a value's images from which a latent's breadth counts it."""
SEED = 106
"""Noise of the third set."""
EACH, RENDERS, STEPS = 10, 24, 4
"""Images of either kind for detection, renders of an object, timesteps."""


class Explained(NamedTuple):
    """A latent with a rule."""

    latent: int
    rule: Rule
    threshold: float
    f1: float
    confidence: float


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("sae", help="an SAE that was explained, as `saeuron sae explain` names it")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--images", type=int, default=600)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    workspace = Workspace.open(options.workspace, create=False)
    run, sae = Run.of(workspace, runs.remembered(workspace), "cpu"), find(workspace, options.sae)
    job = explain_job(run, sae, options.images)
    if not workspace.has(job.id):
        raise SystemExit(f"not explained yet: run saeuron sae explain {sae.id} --images {options.images}")
    named = {"trained": job.sae_id, **job.controls}
    saes = {kind: SAE.load(workspace.whole(i)) for kind, i in named.items()}
    encoders: dict[str, Encoder] = {kind: each.encode for kind, each in saes.items()}
    encoders[NEURONS] = neurons(saes["trained"].b_dec.detach())
    rows = read_table(workspace.whole(job.id, EXPLANATIONS.file) / EXPLANATIONS.file).to_pylist()
    strengths, labels = _third(job, encoders, saes["trained"].info.hookpoint)
    figures: list[Figure] = []
    for kind in encoders:
        mine = [row for row in rows if row["kind"] == kind]
        figures += _honest(kind, [_explained(row) for row in mine if row["rule"]], strengths.strengths(kind), labels)
        thresholds = torch.tensor([row["threshold"] for row in mine])
        figures += _breadth(kind, strengths.strengths(kind) > thresholds, labels)
    good = [e for e in (_explained(r) for r in rows if r["kind"] == "trained" and r["rule"]) if e.f1 >= GOOD]
    figures += _localisation(job, saes["trained"], [e for e in good if e.rule.form == "one"])
    show(figures, options.json)


def _explained(row: dict[str, Any]) -> Explained:
    # The domains of two values stand in the rule's words alone.
    domains = [part.split(" is ")[0] for part in row["rule"].split(" and ")]
    domains *= len(row["concepts"]) if len(domains) == 1 else 1
    rule = Rule(row["form"], tuple(zip(domains, row["concepts"], strict=True)))
    return Explained(row["latent"], rule, row["threshold"], row["f1"], row["confidence"])


def _third(job: ExplainJob, encoders: dict[str, Encoder], hookpoint: str) -> tuple[Strengths, list[Labels]]:
    """A and labels of new images: test prompts with other noise."""
    pipe = model.pipeline(job.model, job.device)
    wanted = images(prompt_sets.read(job.open, job.prompts_id), "test", job.config)
    reader, labels = Strengths(encoders, job.config.half, job.config.read), list[Labels]()
    with attached(pipe, readers={hookpoint: reader}):
        for batch in batches(wanted, job.model, "a third set"):
            for requests, pictures in generate(pipe, batch, job.model, SEED, begin=reader.begin):
                labels += shown(job, requests, pictures)
                reader.take()
    return reader, labels


def _honest(kind: str, found: Sequence[Explained], strength: Tensor, labels: Sequence[Labels]) -> Iterator[Figure]:
    trusted = [e for e in found if e.confidence >= GOOD]
    again, detected, chance = 0, list[float](), np.random.default_rng(SEED)
    for e in trusted:
        fires = strength[:, e.latent] > e.threshold
        holds = torch.tensor([e.rule.holds(each) for each in labels])
        again += agreement(fires, holds)[2] >= GOOD
        on, off = (np.flatnonzero(each.numpy()) for each in (fires, ~fires))
        if len(on) >= EACH and len(off) >= EACH:
            some = [chance.choice(each, EACH, replace=False) for each in (on, off)]
            detected.append(float(holds[some[0]].float().mean() + (~holds[some[1]]).float().mean()) / 2)
    n = len(trusted)
    low, high = wilson(again, n) if n else (0.0, 1.0)
    text = f"{kind}: F1 >= 80 again, of latents with confidence >= 80 ({low:.3f} to {high:.3f}, n {n})"
    yield Figure(text, again / n if n else None, "1")
    if detected:
        low, high = interval(np.array(detected))
        text = f"{kind}: detection, {EACH} that fire and {EACH} silent ({low:.3f} to {high:.3f}, n {len(detected)})"
        yield Figure(text, float(np.mean(detected)), "1", 0.5)


def _breadth(kind: str, fires: Tensor, labels: Sequence[Labels]) -> Iterator[Figure]:
    """Rank correlation of a latent's group and its breadth, over latents that fire at all."""
    values = sorted({(d, v) for each in labels for d, v in each.items() if v is not None})
    shows = torch.tensor([[each.get(d) == v for d, v in values] for each in labels], dtype=torch.float32)
    share = (shows.T @ fires.float()) / shows.sum(0)[:, None]
    wide = (share >= WIDE).sum(0).numpy()
    cuts = [round(f * fires.shape[1]) for f in MatryoshkaOptions().fractions]
    group = np.searchsorted(cuts, np.arange(fires.shape[1]), side="right")
    alive = fires.any(0).numpy()
    a, b = group[alive].astype(np.float64), wide[alive].astype(np.float64)
    low, high = resampled(a, b, spearman, "breadth", kind)
    means = ", ".join(f"{b[a == g].mean():.1f}" if (a == g).any() else "-" for g in range(len(cuts)))
    span = f"{low:.2f} to {high:.2f}" if low is not None else "no spread"
    yield Figure(f"{kind}: breadth falls by group ({span}, n {alive.sum()}; means {means})", spearman(a, b), "1")


def _localisation(job: ExplainJob, sae: SAE, found: Sequence[Explained]) -> Iterator[Figure]:
    """AUROC over positions, a mean for each latent; the interval is over latents."""
    vocabulary = vocabulary_named(job.model.spec)
    mine = [e for e in found if e.rule.values[0][0] == "object" and e.rule.values[0][1] in vocabulary.objects]
    pipe = model.pipeline(job.model, job.device)
    family = family_of(pipe)
    pipe.scheduler.set_timesteps(job.model.steps)
    timesteps = evenly([int(t) for t in pipe.scheduler.timesteps], STEPS)
    each: dict[str, list[float]] = defaultdict(list)
    objects = sorted({e.rule.values[0][1] for e in mine})
    for name in objects:
        pictures, inside, texts = _renders(vocabulary, name)
        others = _renders(vocabulary, next(o for o in (*objects, *vocabulary.objects) if o != name))[1]
        clean = family.encode_images(pipe, ((pictures + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
        by_step = {t: _positions(job, pipe, sae, clean, texts, t) for t in timesteps}
        for e in (e for e in mine if e.rule.values[0][1] == name):
            drawn = generator(SEED, "another latent", e.latent)
            silent = torch.stack([f.amax(1) for f in by_step.values()]).amax((0, 1)) <= 0
            silent[e.latent] = True
            firing = (~silent).nonzero().flatten()
            other = int(firing[torch.randint(len(firing), (1,), generator=drawn)]) if len(firing) else None
            for what, latent, where in (
                ("latents of one object", e.latent, inside),
                ("control: the mask of another object's picture", e.latent, others),
                ("control: another latent that fires there", other, inside),
            ):
                found_at = [
                    auroc(f[i, :, latent], mask)
                    for f in by_step.values()
                    for i, mask in enumerate(_pooled(where, f.shape[1]))
                    if latent is not None and f[i, :, latent].max() > 0 and 0 < mask.sum() < len(mask)
                ]
                if found_at:
                    each[what].append(float(np.mean(found_at)))
    for what, values in each.items():
        low, high = interval(np.array(values))
        text = f"localisation, {what} ({low:.3f} to {high:.3f}, n {len(values)})"
        yield Figure(text, float(np.mean(values)), "1", 0.5)


def _renders(vocabulary: Any, name: str) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures of an object in all styles, float32 [B, 3, S, S]; masks, [B, 1, S, S]; sentences."""
    styles = torch.arange(RENDERS) % len(vocabulary.style_classes)
    objects = torch.full_like(styles, vocabulary.objects.index(name))
    seeded = [generator(SEED, "renders", name) for _ in range(2)]
    pictures = render(objects, styles, seeded[0], vocabulary.objects)
    texts = [vocabulary.sentences("test", name, vocabulary.style_classes[int(s)])[0] for s in styles]
    return pictures, masks(objects, seeded[1], vocabulary.objects), texts


@torch.no_grad()
def _positions(job: ExplainJob, pipe: Any, sae: SAE, clean: Tensor, texts: list[str], timestep: int) -> Tensor:
    """f, float32 [B, P, N], of pictures noised to one timestep; the conditional half."""
    family, got = family_of(pipe), list[Tensor]()
    draws = generator(SEED, "noise", timestep)
    noise = torch.randn(clean.shape, generator=draws).to(clean)

    def read(step: Step, output: Tensor, source: Tensor | None) -> None:
        output = output - source if job.config.read == "update" and source is not None else output
        got.append(sae.encode(to_rows(step.half(output, "conditional", len(clean))).float()))

    with attached(pipe, readers={sae.info.hookpoint: read}):
        noised = family.add_noise(pipe, clean, noise, timestep)
        family.predict_noise(pipe, noised, timestep, family.encode_prompt(pipe, texts))
    return got[-1]


def _pooled(inside: Tensor, positions: int) -> Tensor:
    """bool [B, P]: positions of a square map that an object covers by more than half."""
    side = round(positions**0.5)
    return F.adaptive_avg_pool2d(inside, side).flatten(1) > 0.5


if __name__ == "__main__":
    main()
