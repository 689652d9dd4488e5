"""The command that grows canvas from the weights of canvas20: `python -m saeuron.canvas grow`."""

import time
from pathlib import Path
from typing import Annotated

import typer

FOLDER = Path("checkpoints/canvas")


def grow(
    checkpoints: Annotated[Path, typer.Option(help="Folder of the resumable state; git ignores it.")] = FOLDER,
    source: Annotated[
        str,
        typer.Option("--from", help="Weights a new run starts from: canvas20, canvas, or a folder of a grown canvas."),
    ] = "canvas20",
    finish: Annotated[int | None, typer.Option(help="End the run: let the rate fall over this many images.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this time.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate of a new run.")] = 8e-4,
    unstyled: Annotated[
        float | None, typer.Option(help="Share of unstyled images from here on, until the end; a new run has 0.4.")
    ] = None,
    early: Annotated[
        bool | None,
        typer.Option("--early/--uniform", help="Time steps from here on: drawn toward noise, as in a new run, or not."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a new run: its new words and its data.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Autocast of a new run; a gain where the CPU has bfloat16.")] = True,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Annotated[int, typer.Option(help="Torch threads on the CPU.")] = 1,
) -> None:
    """Grow canvas, of 100 objects, from canvas20; run it again to go on, and with --finish to end the run.

    Example: python -m saeuron.canvas grow --minutes 60
    """
    import torch

    from saeuron.canvas import FOLDERS
    from saeuron.canvas.growth import grow as grown
    from saeuron.canvas.growth import images_before
    from saeuron.canvas.model import Architecture
    from saeuron.canvas.training import CHECKPOINT, TrainConfig, saved_config, train
    from saeuron.canvas.vocabularies import CANVAS
    from saeuron.pipelines.loading import load_pipeline

    torch.set_num_threads(threads)
    warm = None
    if (checkpoints / CHECKPOINT).exists():
        config, step = saved_config(checkpoints)
    else:
        step = 0
        config = TrainConfig(
            architecture=Architecture(tokens=24),
            vocabulary=CANVAS.name,
            seed=seed,
            images=100_000_000,
            lr=lr,
            decay=0.0,
            unstyled=0.4,
            early=True,
            unusual=0.25,
            bfloat16=bfloat16,
            before=images_before(FOLDERS.get(source, Path(source))),
        )
        warm = load_pipeline(str(FOLDERS.get(source, source)))
        if source == "canvas20":
            warm = grown(warm, CANVAS, config.architecture, seed)
    changes = {"unstyled": unstyled, "early": early}
    config = config.model_copy(update={k: v for k, v in changes.items() if v is not None})
    if finish is not None:
        steps = step + finish // config.batch
        config = config.model_copy(update={"images": steps * config.batch, "decay": (steps - step) / steps})
    start, first = time.monotonic(), step

    def report(done: int, steps: int, loss: float) -> None:
        # Called every 20 steps, from wherever the run was resumed.
        if done % 100 < 20:
            speed = (done - first) * config.batch / (time.monotonic() - start)
            left = f" of {steps}" if config.decay else ""
            typer.echo(f"step {done}{left}, {done * config.batch:,} images, {speed:.0f} images/s, loss {loss:.4f}")

    done = train(config, checkpoints, torch.device(device), warm=warm, minutes=minutes, save_every=300.0, report=report)
    typer.echo(f"{'complete' if done else 'stopped, resumable'}: {checkpoints}")
