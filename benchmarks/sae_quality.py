"""FVU against L0 for every variant, on canvas20 activations, at equal steps and equal rows.

    python -m benchmarks.sae_quality --seeds 0 1 2 3 --plot docs/sae_quality.png --table docs/sae_quality.md

Rows of one hookpoint are captured from training prompts, and shuffled for each seed; all SAEs of a seed are trained on
the same batches in the same order, and judged at inference (each row by itself) on rows from test prompts. k is what
each variant is asked for; L0 is what it uses.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import Figure, parser, show
from saeuron.canvas.evaluation import requests
from saeuron.canvas.vocabulary import Split
from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.pipelines.loading import load_pipeline
from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import Point, Quality, Trainer, quality, together
from saeuron.sae.variants import VARIANTS

HOOKPOINT = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2"


def main() -> None:
    """Capture, train, judge; print a table, draw the plot, write the page."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--hookpoint", default=HOOKPOINT)
    arguments.add_argument("--variants", nargs="+", default=sorted(VARIANTS), choices=sorted(VARIANTS))
    arguments.add_argument("--k", type=int, nargs="+", default=[8, 16, 32, 64])
    arguments.add_argument("--expansion", type=int, default=4)
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--batch", type=int, default=2048)
    arguments.add_argument("--lr", type=float, default=1e-2, help="of Adam, for all (1e-2)")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights and of the order of rows")
    arguments.add_argument("--threads", type=int, default=1, help="of each process")
    arguments.add_argument("--processes", type=int, default=2, help="seeds at a time")
    arguments.add_argument("--plot", type=Path, help="a PNG to draw")
    arguments.add_argument("--table", type=Path, help="a Markdown page to write")
    options = arguments.parse_args()
    rows = {split: captured(split, options.hookpoint) for split in ("train", "test")}
    print(f"{len(rows['train'])} rows to train on, {len(rows['test'])} to judge on, D {rows['train'].shape[1]}")
    found: dict[tuple[str, int], list[Quality]] = {}
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        judged = [pool.submit(_judged, options, seed, rows) for seed in options.seeds]
        for each in judged:
            for key, quality_ in each.result().items():
                found.setdefault(key, []).append(quality_)
    figures = []
    for (name, k), seen in found.items():
        middle = [float(np.mean([getattr(q, field) for q in seen])) for field in ("fvu", "l0", "never")]
        figures.append(Figure(f"{name}, k {k}: FVU", middle[0], "ratio"))
        figures.append(Figure(f"{name}, k {k}: L0", middle[1], "latents", k, middle[1] / k))
    show(figures, options.json)
    if options.plot:
        draw(found, options.plot, options.hookpoint)
        print(f"drew {options.plot}")
    if options.table:
        options.table.write_text(page(found, options, len(rows["train"])))
        print(f"wrote {options.table}")


def _judged(options: Namespace, seed: int, rows: dict[str, NDArray[Any]]) -> dict[tuple[str, int], Quality]:
    """Every variant at every k, trained with a seed and judged."""
    torch.set_num_threads(options.threads)
    fixed = {
        "seed": seed,
        "expansion": options.expansion,
        "steps": options.steps,
        "batch": options.batch,
        "lr": options.lr,
    }
    configs = {
        (name, k): SAEConfig.model_validate({"variant": name, "k": k, **fixed})
        for name, k in itertools.product(options.variants, options.k)
    }
    order = np.random.default_rng(seed).permutation(len(rows["train"]))
    trainers = trained(configs, rows["train"][order])
    return {key: quality(t.sae, iter(tensor_of(rows["test"]).split(8192))) for key, t in trainers.items()}


def captured(split: Split, hookpoint: str) -> NDArray[Any]:
    """Rows [R, D] of one image of every cell of a split; float16."""
    pipe, config = load_pipeline("canvas20"), CaptureConfig()
    seen = capture(pipe, requests(split, 1), [hookpoint], ModelConfig(), config)
    return np.concatenate([arrays[hookpoint].reshape(-1, arrays[hookpoint].shape[-1]) for _, _, arrays, _ in seen])


def trained(configs: dict[Any, SAEConfig], rows: NDArray[Any]) -> dict[Any, Trainer]:
    """All SAEs on one stream of batches, which starts again at the end of the rows."""
    batch = next(iter(configs.values())).batch
    per_epoch = len(rows) // batch

    def stream(start: int) -> Iterator[NDArray[Any]]:
        for i in itertools.count(start):
            at = i % per_epoch * batch
            yield rows[at : at + batch]

    trainers = {key: Trainer(config, rows.shape[1], "") for key, config in configs.items()}
    for trainer in trainers.values():
        trainer.initialise(tensor_of(rows[:batch]))

    def tell(index: int, point: Point) -> None:
        if index == 0 and point.step % 100 == 0:
            print(f"seed {next(iter(configs.values())).seed}: step {point.step}", file=sys.stderr, flush=True)

    together(list(trainers.values()), stream, {}, report=tell)
    return trainers


def draw(found: dict[tuple[str, int], list[Quality]], path: Path, hookpoint: str) -> None:
    """FVU over L0, both on logarithmic axes, a line a variant."""
    figure, axes = plt.subplots(figsize=(8, 5.5), constrained_layout=True)
    names = list(dict.fromkeys(name for name, _ in found))
    colours = plt.get_cmap("tab20").colors
    for i, name in enumerate(names):
        points = [q for (n, _), seen in found.items() if n == name for q in [seen]]
        l0 = [float(np.mean([q.l0 for q in seen])) for seen in points]
        fvu = [float(np.mean([q.fvu for q in seen])) for seen in points]
        axes.plot(l0, fvu, marker="os^Dv"[i % 5], color=colours[i % 20], label=name, lw=1.2, ms=5)
    axes.set(xscale="log", yscale="log", xlabel="L0: active latents per row", ylabel="FVU on held-out rows")
    axes.set_title(f"canvas20, {hookpoint}", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def page(found: dict[tuple[str, int], list[Quality]], options: Any, rows: int) -> str:
    """A Markdown table: a row a variant and k."""
    lines = [
        "# FVU against L0, every variant",
        "",
        f"`python -m benchmarks.sae_quality`: canvas20, `{options.hookpoint}`, N = {options.expansion} D, "
        f"{options.steps} steps of {options.batch} rows ({rows} in all), learning rate {options.lr:g}, "
        f"seeds {', '.join(map(str, options.seeds))}; judged at inference on rows from test prompts. "
        "Options are each variant's defaults; `never` are latents that fired on no row.",
        "",
        "![FVU against L0](sae_quality.png)",
        "",
        "| variant | k | L0 | FVU | spread over seeds | never |",
        "|---|---|---|---|---|---|",
    ]
    for (name, k), seen in found.items():
        fvu = [q.fvu for q in seen]
        l0, never = (float(np.mean([getattr(q, field) for q in seen])) for field in ("l0", "never"))
        spread = f"{max(fvu) - min(fvu):.4f}" if len(fvu) > 1 else "-"
        lines.append(f"| {name} | {k} | {l0:.1f} | {np.mean(fvu):.4f} | {spread} | {100 * never:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
