"""FVU, L0 and F1 of every variant beside an untrained SAE, on canvas activations, at equal steps and equal rows.

    python -m benchmarks.sae.quality --table docs/sae_quality.md --plot docs/sae_quality.png

Rows of one hookpoint are captured from training prompts, and shuffled for each seed; all SAEs of a seed are trained on
the same batches in the same order. FVU and L0 are of rows from test prompts, each row by itself. F1: for each object or
style the latent and threshold that name it best are chosen on validation images and judged on test images
(`saeuron.sae.diagnosis.detection`). Stability: the mean largest cosine of the decoder rows of these latents to those of
the next seed's SAE. k is what each variant is asked for; L0 is what it uses.

Every SAE that is done is kept in the folder: the command goes on where it was ended.
"""

import itertools
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.results import Figure, parser, show
from saeuron.canvas.evaluation import requests
from saeuron.canvas.vocabularies import CANVAS
from saeuron.canvas.vocabulary import Split
from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.files import atomic_path
from saeuron.pipelines.loading import load_pipeline
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.diagnosis.detection import detections
from saeuron.sae.diagnosis.dictionary import chance, nearest
from saeuron.sae.labels import concepts_of, ids
from saeuron.sae.streams import Labelled, tensor_of
from saeuron.sae.training import Trainer, quality, together
from saeuron.sae.variants import VARIANTS

HOOKPOINT = "unet.up_blocks.0.attentions.1"
UNTRAINED = "untrained"
"""In the place of a variant: `topk` as it is drawn."""
SHUFFLED = "_shuffled"
"""Suffix of a variant that learns from labels: a control, which is given those of other images, at random."""
LEARNED_FROM_LABELS = ("assigned", "contrastive")
GOOD = 0.9
_IMAGES = 32
"""Images that are encoded at once."""


class Found(NamedTuple):
    """What one SAE is worth."""

    variant: str
    k: int
    seed: int
    fvu: float
    l0: float
    never: float
    f1: float
    """Mean over objects, or styles."""
    named: float
    """Share of them with an F1 of at least GOOD."""
    used: list[int]
    """The best latent of each."""


class Images(NamedTuple):
    """What was read from the images of one split."""

    rows: NDArray[Any]
    """float16 [images, steps, P, D]."""
    asked: list[str]
    """The object, or the style, that each asks for."""


def main() -> None:
    """Capture, train, judge; print a table, draw the plot, write the page."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--folder", type=Path, default=Path("quality"), help="what is done is kept here (quality)")
    arguments.add_argument("--hookpoint", default=HOOKPOINT)
    arguments.add_argument("--domain", choices=("object", "style"), default="object", help="what latents name (object)")
    arguments.add_argument("--each", type=int, default=1, help="training images of each object in each style (1)")
    arguments.add_argument("--objects", type=int, default=20, help="of canvas, evenly spaced in its list (20)")
    every = [UNTRAINED, *sorted([*VARIANTS, *(name + SHUFFLED for name in LEARNED_FROM_LABELS)])]
    arguments.add_argument("--variants", nargs="+", default=every)
    arguments.add_argument("--k", type=int, nargs="+", default=[4, 8])
    arguments.add_argument("--expansion", type=float, default=4)
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batch", type=int, default=2048)
    arguments.add_argument("--lr", type=float, default=1e-2, help="of Adam, for all (1e-2)")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights and order (0 1 2)")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--plot", type=Path, help="a PNG to draw")
    arguments.add_argument("--table", type=Path, help="a Markdown page to write")
    options = arguments.parse_args()
    if unknown := sorted(set(options.variants) - {*every}):
        arguments.error(f"--variants {unknown[0]}; expected some of {', '.join(every)}")
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    kept(options)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    seen = {split: captured(options, split) for split in splits}
    everything = [
        made(options, variant, k, seed, seen)
        for seed, variant, k in itertools.product(options.seeds, options.variants, options.k)
    ]
    found: dict[tuple[str, int], list[Found]] = {}
    for each in everything:
        found.setdefault((each.variant, each.k), []).append(each)
    figures = [
        Figure(f"{name}, k {k}: {field}", float(np.mean([getattr(f, field) for f in many])), unit)
        for (name, k), many in found.items()
        for field, unit in (("fvu", "ratio"), ("l0", "latents"), ("f1", "ratio"))
    ]
    show(figures, options.json)
    if options.plot:
        draw(found, options.plot, options.hookpoint)
        print(f"drew {options.plot}")
    if options.table:
        options.table.write_text(page(found, options, seen))
        print(f"wrote {options.table}")


def kept(options: Namespace) -> None:
    """Refuse a folder that holds results of other settings."""
    names = ("hookpoint", "domain", "each", "objects", "expansion", "steps", "batch", "lr")
    path, now = options.folder / "settings.json", {name: getattr(options, name) for name in names}
    if path.exists() and (before := json.loads(path.read_text())) != now:
        raise SystemExit(f"{options.folder} holds results of {before}; expected {now}: give another --folder.")
    path.write_text(json.dumps(now))


def captured(options: Namespace, split: Split) -> Images:
    """One image of every cell of some objects and all styles, of which the concept of a domain counts."""
    every = len(CANVAS.objects) // options.objects
    objects = CANVAS.objects[::every][: options.objects]
    each = options.each if split == "train" else 1
    wanted = [r for r in requests(split, each, CANVAS) if r.prompt.concepts["object"] in objects]
    asked = [r.prompt.concepts[options.domain] for r in wanted]
    path = options.folder / f"{split}.npy"
    if not path.exists():
        config = CaptureConfig(seed={"train": 0, "validation": 1, "test": 2}[split])
        read = capture(load_pipeline("canvas"), wanted, [options.hookpoint], ModelConfig(), config)
        rows = np.stack([arrays[options.hookpoint] for _, _, arrays, _ in read])
        with atomic_path(path) as part, part.open("wb") as file:
            np.save(file, rows)
    return Images(np.load(path, mmap_mode="c"), asked)


def made(options: Namespace, variant: str, k: int, seed: int, seen: dict[Split, Images]) -> Found:
    """One SAE, trained and judged unless it is there."""
    folder = options.folder / f"{variant}_{k}_{seed}"
    if (path := folder / "found.json").exists():
        return Found(**json.loads(path.read_text()))
    fixed = {name: getattr(options, name) for name in ("expansion", "steps", "batch", "lr")}
    plain = "topk" if variant == UNTRAINED else variant.removesuffix(SHUFFLED)
    config = SAEConfig.model_validate({"variant": plain, "k": k, "seed": seed, **fixed})
    if variant == UNTRAINED:
        config = config.learning("untrained")
    train = seen["train"]
    if variant.endswith(SHUFFLED):
        order = np.random.default_rng(seed).permutation(len(train.asked))
        train = train._replace(asked=[train.asked[i] for i in order])
    sae = fitted(config, train)
    chosen, judged_on = seen["validation"], seen["test"]
    judged = detections(strengths(sae, chosen.rows), chosen.asked, strengths(sae, judged_on.rows), judged_on.asked)
    rows = judged_on.rows
    flat = (tensor_of(part.reshape(-1, rows.shape[-1])) for part in np.array_split(rows, -(-len(rows) // _IMAGES)))
    whole = quality(sae, flat)
    f1 = [d.f1 for d in judged]
    found = Found(
        variant, k, seed, whole.fvu, whole.l0, whole.never, float(np.mean(f1)), float(np.mean(np.array(f1) >= GOOD)),
        [d.latent for d in judged if d.latent is not None],
    )  # fmt: skip
    sae.save(folder)
    with atomic_path(path) as part:
        part.write_text(json.dumps(found._asdict()))
    print(f"{variant}, k {k}, seed {seed}: FVU {found.fvu:.3f}, F1 {found.f1:.3f}", flush=True)
    return found


def fitted(config: SAEConfig, images: Images) -> SAE:
    """An SAE trained on the rows of images, in an order that its seed draws; they start again at their end.

    Variants that learn from labels get what each image asks for.
    """
    rows = images.rows.reshape(-1, images.rows.shape[-1])
    order = np.random.default_rng(config.seed).permutation(len(rows))
    rows, per_epoch = rows[order], len(rows) // config.batch
    asked = [{"object": name} for name in images.asked]
    concepts = concepts_of(asked)
    labels = ids(asked, concepts).repeat(len(rows) // len(asked), axis=0)[order]

    def stream(start: int) -> Iterator[Labelled]:
        for i in itertools.count(start):
            at = i % per_epoch * config.batch
            yield Labelled(rows[at : at + config.batch], labels[at : at + config.batch])

    trainer = Trainer(config, rows.shape[1], "", concepts=concepts)
    trainer.initialise(tensor_of(rows[: config.batch]))
    together([trainer], stream, {})
    return trainer.sae


@torch.no_grad()
def strengths(sae: SAE, images: NDArray[Any]) -> Tensor:
    """A, float32 [images, N]: mean over steps of the largest activation over positions."""
    parts = np.array_split(images, -(-len(images) // _IMAGES))
    return torch.cat(
        [torch.stack([sae.encode(tensor_of(image).float()).amax(1).mean(0) for image in p]) for p in parts]
    )


def stability(options: Namespace, many: Sequence[Found]) -> tuple[float, float] | None:
    """Mean largest cosine of used decoder rows between seeds, over all ordered pairs, and what chance gives."""
    saes = [SAE.load(options.folder / f"{f.variant}_{f.k}_{f.seed}") for f in many]
    pairs = list(itertools.permutations(range(len(many)), 2))
    if not pairs:
        return None
    cosines = [float(nearest(saes[a].W_dec[many[a].used], saes[b].W_dec).cosine.mean()) for a, b in pairs]
    info = saes[0].info
    return float(np.mean(cosines)), chance(len(many[0].used), info.n_latents, info.width)


def draw(found: dict[tuple[str, int], list[Found]], path: Path, hookpoint: str) -> None:
    """F1 over FVU, a mark a variant and k, means over seeds."""
    figure, axes = plt.subplots(figsize=(8, 5.5), constrained_layout=True)
    names, colours = list(dict.fromkeys(name for name, _ in found)), plt.get_cmap("tab20").colors
    for i, name in enumerate(names):
        points = [seen for (n, _), seen in found.items() if n == name]
        fvu, f1 = ([float(np.mean([getattr(f, field) for f in seen])) for seen in points] for field in ("fvu", "f1"))
        axes.plot(fvu, f1, marker="os^Dv"[i % 5], color=colours[i % 20], label=name, lw=1.0, ms=6)
    axes.set(xscale="log", xlabel="FVU on rows of test images", ylabel="mean F1 of the best latent")
    axes.set_title(f"canvas, {hookpoint}; lines join values of k", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(found: dict[tuple[str, int], list[Found]], options: Namespace, seen: dict[Split, Images]) -> str:
    """A Markdown table: a row a variant and k."""
    judged = seen["test"]
    lines = [
        "# FVU, L0 and F1, every variant",
        "",
        f"`python -m benchmarks.sae.quality --k {_listed(options.k)} --seeds {_listed(options.seeds)}`: canvas, "
        f"`{options.hookpoint}`, N = {options.expansion:g} D, "
        f"{options.steps} steps of {options.batch} rows ({seen['train'].rows[..., 0].size} in all), learning rate "
        f"{options.lr:g}. FVU, L0 and `never` (latents that fired on no "
        f"row) are of rows of {len(judged.asked)} test images. F1: for each of {len(set(judged.asked))} "
        f"{options.domain}s the best latent and threshold, chosen on {len(seen['validation'].asked)} validation "
        f"images, judged on the test images, {len(judged.asked) // len(set(judged.asked))} of each; `0.9`: share of "
        f"{options.domain}s at 0.9 or more. Brackets: lowest and highest of several "
        "seeds. Stability: mean largest cosine of these latents' "
        "decoder rows to those of another seed's SAE, and in brackets what random directions give. Options are each "
        "variant's defaults. Controls: `untrained`, and for variants that learn from labels those of other images "
        "(`_shuffled`).",
        "",
        "![F1 against FVU](sae_quality.png)",
        "",
        "| variant | k | L0 | FVU | F1 | 0.9 | stability | never |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, k), many in found.items():
        l0, fvu, f1, named, never = (
            np.array([getattr(f, field) for f in many]) for field in ("l0", "fvu", "f1", "named", "never")
        )
        alike = stability(options, many)
        lines.append(
            f"| {name} | {k} | {l0.mean():.1f} | {_spread(fvu, 3)} | {_spread(f1, 2)} | {_spread(100 * named, 0)} % "
            f"| {'-' if alike is None else f'{alike[0]:.2f} ({alike[1]:.2f})'} | {100 * never.mean():.0f} % |"
        )
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def _spread(values: NDArray[Any], digits: int) -> str:
    """`0.96 (0.94 to 0.97)`; of one seed `0.96`."""
    mean, low, high = (f"{v:.{digits}f}" for v in (values.mean(), values.min(), values.max()))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    main()
