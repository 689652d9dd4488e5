"""The commands that look at a canvas: what share of its images is recognised, and a sheet of them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from saeuron.canvas.commands.terminal import Device, Model, Threads, bar_of, console

Weights = Annotated[
    Path | None, typer.Option(help="Folder of a pipeline of this canvas; the default is the package's own.")
]


def evaluate(
    model: Model = "canvas",
    weights: Weights = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; the default is the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the default is the model's own.")] = None,
    seeds: Annotated[int, typer.Option(help="Images of each prompt.")] = 5,
    prompts: Annotated[str, typer.Option(help="plain; of canvas also paraphrase, description, misspelling.")] = (
        "plain"
    ),
    split: Annotated[str, typer.Option(help="Whose sentences: train, validation or test.")] = "test",
    record: Annotated[bool, typer.Option(help="Keep the figures beside the weights, in the model card.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Print the share of generated images that the classifier recognises, per object and per style.

    Example: python -m saeuron.canvas evaluate --guidance 2.5 --json figures.json
    """
    from typing import cast, get_args

    import torch

    from saeuron.canvas import FOLDERS
    from saeuron.canvas.card import record_figures
    from saeuron.canvas.evaluation import recognised
    from saeuron.canvas.vocabularies import vocabulary_named
    from saeuron.canvas.vocabulary import Split
    from saeuron.config import ModelConfig
    from saeuron.pipelines.loading import load_pipeline

    vocabulary = vocabulary_named(model)
    if prompts not in vocabulary.kinds:
        raise typer.BadParameter(f"{model} knows prompts of the kinds {', '.join(vocabulary.kinds)}.")
    if split not in get_args(Split):
        raise typer.BadParameter(f"splits are {', '.join(get_args(Split))}.")
    torch.set_num_threads(threads)
    folder = weights or FOLDERS[vocabulary.name]
    given = {k: v for k, v in {"guidance": guidance, "steps": steps}.items() if v is not None}
    config = ModelConfig.model_validate(given)
    with bar_of("generating") as bar:
        task = bar.add_task("", total=None, note="")
        shares = recognised(
            load_pipeline(str(folder), device=device),
            config,
            split=cast(Split, split),
            seeds=seeds,
            vocabulary=vocabulary,
            kind=prompts,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    title = f"{split} prompts, {prompts}, guidance {config.guidance}, {config.steps} steps"
    table = Table("domain", "name", "recognised", "95 % interval", "images", title=title)
    for s in shares:
        low, high = s.interval
        interval = f"{low:.1%} - {high:.1%}"
        table.add_row(s.domain, s.name, f"{s.value:.1%}", interval, str(s.images), end_section=s.name == "all")
    console.print(table)
    rows: list[dict[str, Any]] = [
        {"domain": s.domain, "name": s.name, "value": s.value, "low": s.interval[0], "high": s.interval[1],
         "n_images": s.images, "guidance": config.guidance, "steps": config.steps}
        | ({} if prompts == "plain" else {"prompts": prompts})
        for s in shares
    ]  # fmt: skip
    if record:
        if split != "test":
            raise typer.BadParameter("only figures of test prompts are kept with the weights.")
        record_figures(folder, rows)
        console.print(f"recorded in {folder}")
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")
        console.print(f"wrote {json_file}")


def sheet(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("canvas.png"),
    model: Model = "canvas",
    weights: Weights = None,
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

    from saeuron.canvas import FOLDERS
    from saeuron.canvas.evaluation import requests
    from saeuron.canvas.renderer import render
    from saeuron.canvas.vocabularies import vocabulary_named
    from saeuron.config import ModelConfig
    from saeuron.generation import generate
    from saeuron.pages.pictures import save_png
    from saeuron.pipelines.loading import load_pipeline

    torch.set_num_threads(threads)
    vocabulary = vocabulary_named(model)
    rows, columns = len(vocabulary.objects), len(vocabulary.style_classes)
    if renders:
        objects = torch.arange(rows).repeat_interleave(columns)
        generator = torch.Generator().manual_seed(0)
        drawn = render(objects, torch.arange(columns).repeat(rows), generator, vocabulary.objects)
        images = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    else:
        config = ModelConfig() if guidance is None else ModelConfig(guidance=guidance)
        pipe = load_pipeline(str(weights or FOLDERS[vocabulary.name]))
        images = np.concatenate([p for _, p in generate(pipe, requests("test", 1, vocabulary), config, seed=0)])
    grid = images.reshape(rows, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, columns * 32, 3)
    picture = Image.fromarray(np.ascontiguousarray(grid)).resize((columns * 64, rows * 64), Image.Resampling.NEAREST)
    console.print(f"wrote {save_png(out, picture)}")
