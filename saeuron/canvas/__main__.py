"""Make canvas, measure it and ask it: `python -m saeuron.canvas COMMAND`."""

from pathlib import Path
from typing import Annotated

import typer

from saeuron.canvas.commands.asking import prompts
from saeuron.canvas.commands.growing import grow
from saeuron.canvas.commands.measuring import evaluate, sheet
from saeuron.canvas.commands.terminal import Device, Model, Threads, bar_of, console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
for command in (grow, evaluate, sheet, prompts):
    app.command()(command)


@app.command()
def train(
    checkpoints: Annotated[Path, typer.Option(help="Folder of the resumable state; git ignores it.")] = Path(
        "checkpoints/canvas20"
    ),
    images: Annotated[int, typer.Option(help="Images to train on in all.")] = 400_000,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this time.")] = None,
    patch: Annotated[int, typer.Option(help="Pixels per side of a latent pixel: 4, or 2 for finer positions.")] = 4,
    channels: Annotated[str, typer.Option(help="Channels of the UNet's blocks, fine to coarse.")] = "96,160",
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    warm: Annotated[bool, typer.Option(help="Start from the committed weights of canvas20.")] = False,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train canvas20, the model of 20 objects; run it again to go on.

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
    with bar_of("training") as bar:
        task = bar.add_task("", total=config.steps, note="")

        def report(step: int, steps: int, loss: float) -> None:
            bar.update(task, completed=step, total=steps, note=f"loss {loss:.4f}")

        done = run(
            config,
            checkpoints,
            torch.device(device),
            warm=load_pipeline("canvas20") if warm else None,
            minutes=minutes,
            report=report,
        )
    console.print(f"{'complete' if done else 'stopped, resumable'}: {checkpoints}")
    console.print(f"next: python -m saeuron.canvas export --model canvas20 --checkpoints {checkpoints}")


@app.command()
def export(
    model: Model = "canvas",
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of the training state.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write; the default is the package's own.")] = None,
) -> None:
    """Write the running mean of the weights into the package, as fp16 safetensors, with the training record.

    Example: python -m saeuron.canvas export
    """
    from saeuron.canvas import FOLDERS
    from saeuron.canvas.training import export as write
    from saeuron.canvas.vocabularies import vocabulary_named

    folder = to or FOLDERS[vocabulary_named(model).name]
    record = write(checkpoints or Path("checkpoints") / model, folder)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    console.print(f"{folder}: {record['images_seen']:,} images seen, {size:.1f} MB")
    console.print(f"next: python -m saeuron.canvas evaluate --model {model}")


@app.command()
def classifier(
    model: Model = "canvas",
    threads: Threads = 2,
    steps: int | None = None,
    second: Annotated[bool, typer.Option("--second", help="The second judge, by which nothing is tuned.")] = False,
) -> None:
    """Train the judge from nothing and write it into the package.

    Example: python -m saeuron.canvas classifier
    """
    import torch

    from saeuron.canvas.classifier import accuracy, judge_file, object_accuracy, save_classifier, train_classifier
    from saeuron.canvas.vocabularies import vocabulary_named

    torch.set_num_threads(threads)
    vocabulary = vocabulary_named(model)
    steps = steps or (1500 if len(vocabulary.objects) <= 20 else 3000)
    with bar_of("classifier") as bar:
        task = bar.add_task("", total=steps, note="")
        judge = train_classifier(
            steps=steps,
            seed=1 if second else 0,
            vocabulary=vocabulary,
            second=second,
            report=lambda s, v: bar.update(task, completed=s, note=f"loss {v:.4f}"),
        )
    figures = accuracy(judge, vocabulary=vocabulary)
    file = judge_file(vocabulary, second)
    save_classifier(judge, figures, file)
    console.print(f"{file}: recognises {figures['object']:.2%} of objects, {figures['style']:.2%} of styles (held out)")
    worst = sorted(object_accuracy(judge, vocabulary=vocabulary).items(), key=lambda item: item[1])[:5]
    console.print("objects least recognised: " + ", ".join(f"{name} {share:.1%}" for name, share in worst))


if __name__ == "__main__":
    app()
