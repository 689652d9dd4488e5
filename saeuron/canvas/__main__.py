"""Make canvas and measure it: `python -m saeuron.canvas train | export | classifier | evaluate | sheet`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1 ...")]
Threads = Annotated[int, typer.Option(help="Torch threads on the CPU.")]


def _bar(label: str) -> Progress:
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console)  # fmt: skip


@app.command()
def train(
    checkpoints: Annotated[Path, typer.Option(help="Folder of the resumable state; git ignores it.")] = Path(
        "checkpoints/canvas"
    ),
    images: Annotated[int, typer.Option(help="Images to train on in all.")] = 400_000,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this time.")] = None,
    patch: Annotated[int, typer.Option(help="Pixels per side of a latent pixel: 4, or 2 for finer positions.")] = 4,
    channels: Annotated[str, typer.Option(help="Channels of the UNet's blocks, fine to coarse.")] = "96,160",
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    warm: Annotated[bool, typer.Option(help="Start from the committed weights.")] = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train the diffusion model; run it again to go on.

    Example: python -m saeuron.canvas train --images 400000
    """  # fmt: skip
    import torch

    from saeuron.canvas.model import Architecture
    from saeuron.canvas.training import TrainConfig
    from saeuron.canvas.training import train as run
    from saeuron.pipelines.loading import load_pipeline

    torch.set_num_threads(threads)
    sizes = Architecture(patch=patch, channels=tuple(int(c) for c in channels.split(",")))
    config = TrainConfig(architecture=sizes, seed=seed, images=images)
    with _bar("training") as bar:
        task = bar.add_task("", total=config.steps, note="")

        def report(step: int, steps: int, loss: float) -> None:
            bar.update(task, completed=step, total=steps, note=f"loss {loss:.4f}")

        done = run(
            config,
            checkpoints,
            torch.device(device),
            warm=load_pipeline("canvas") if warm else None,
            minutes=minutes,
            report=report,
        )
    console.print(f"{'complete' if done else 'stopped, resumable'}: {checkpoints}")
    console.print(f"next: python -m saeuron.canvas export --checkpoints {checkpoints}")


@app.command()
def export(
    checkpoints: Annotated[Path, typer.Option(help="Folder of the training state.")] = Path("checkpoints/canvas"),
) -> None:
    """Write the running mean of the weights into the package, as fp16 safetensors, with the training record.

    Example: python -m saeuron.canvas export
    """
    from saeuron.canvas import WEIGHTS
    from saeuron.canvas.training import export as write

    record = write(checkpoints, WEIGHTS)
    size = sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) / 1e6
    console.print(f"{WEIGHTS}: {record['images_seen']:,} images seen, {size:.1f} MB")
    console.print("next: python -m saeuron.canvas evaluate")


@app.command()
def classifier(threads: Threads = 2, steps: int = 1500) -> None:
    """Train the judge from nothing and write it into the package.

    Example: python -m saeuron.canvas classifier
    """
    import torch

    from saeuron.canvas.classifier import FILE, accuracy, save_classifier, train_classifier

    torch.set_num_threads(threads)
    with _bar("classifier") as bar:
        task = bar.add_task("", total=steps, note="")
        model = train_classifier(steps=steps, report=lambda s, v: bar.update(task, completed=s, note=f"loss {v:.4f}"))
    figures = accuracy(model)
    save_classifier(model, figures)
    console.print(f"{FILE}: recognises {figures['object']:.2%} of objects, {figures['style']:.2%} of styles (held out)")


@app.command()
def evaluate(
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; the default is the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the default is the model's own.")] = None,
    seeds: Annotated[int, typer.Option(help="Images of each prompt.")] = 5,
    record: Annotated[bool, typer.Option(help="Keep the figures beside the weights, in the model card.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Print the share of generated images that the classifier recognises, per object and per style; test prompts.

    Example: python -m saeuron.canvas evaluate --guidance 2.5 --json figures.json
    """
    import torch

    from saeuron.canvas import WEIGHTS
    from saeuron.canvas.card import record_figures
    from saeuron.canvas.evaluation import recognised
    from saeuron.config import ModelConfig
    from saeuron.pipelines.loading import load_pipeline

    torch.set_num_threads(threads)
    given = {k: v for k, v in {"guidance": guidance, "steps": steps}.items() if v is not None}
    model = ModelConfig.model_validate(given)
    with _bar("generating") as bar:
        task = bar.add_task("", total=None, note="")
        shares = recognised(
            load_pipeline("canvas", device=device),
            model,
            seeds=seeds,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    table = Table(
        "domain",
        "name",
        "recognised",
        "95 % interval",
        "images",
        title=f"guidance {model.guidance}, {model.steps} steps",
    )
    for s in shares:
        low, high = s.interval
        interval = f"{low:.1%} - {high:.1%}"
        table.add_row(s.domain, s.name, f"{s.value:.1%}", interval, str(s.images), end_section=s.name == "all")
    console.print(table)
    rows: list[dict[str, Any]] = [
        {"domain": s.domain, "name": s.name, "value": s.value, "low": s.interval[0], "high": s.interval[1],
         "n_images": s.images, "guidance": model.guidance, "steps": model.steps}
        for s in shares
    ]  # fmt: skip
    if record:
        record_figures(WEIGHTS, rows)
        console.print(f"recorded in {WEIGHTS}")
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")
        console.print(f"wrote {json_file}")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("canvas.png"),
    renders: Annotated[bool, typer.Option(help="Show what the renderer draws, not what the model generates.")] = False,
    guidance: float | None = None,
    threads: Threads = 2,
) -> None:
    """One image of every object (rows) in every style and unstyled (columns).

    Example: python -m saeuron.canvas sheet --out canvas.png
    """
    import numpy as np
    import torch
    from PIL import Image

    from saeuron.canvas.evaluation import requests
    from saeuron.canvas.renderer import render
    from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES
    from saeuron.config import ModelConfig
    from saeuron.generation import generate
    from saeuron.pages.pictures import save_png
    from saeuron.pipelines.loading import load_pipeline

    torch.set_num_threads(threads)
    rows, columns = len(OBJECTS), len(STYLE_CLASSES)
    if renders:
        objects = torch.arange(rows).repeat_interleave(columns)
        drawn = render(objects, torch.arange(columns).repeat(rows), torch.Generator().manual_seed(0))
        images = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    else:
        model = ModelConfig() if guidance is None else ModelConfig(guidance=guidance)
        images = np.concatenate([p for _, p in generate(load_pipeline("canvas"), requests("test", 1), model, seed=0)])
    grid = images.reshape(rows, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, columns * 32, 3)
    picture = Image.fromarray(np.ascontiguousarray(grid)).resize((columns * 64, rows * 64), Image.Resampling.NEAREST)
    console.print(f"wrote {save_png(out, picture)}")


if __name__ == "__main__":
    app()
