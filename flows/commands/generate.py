"""`saeuron generate`: draw a prompt with and without removals."""

import math
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Threads, WorkspaceOption, file_out, say
from saeuron.errors import ConfigError


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    remove: Annotated[
        list[str] | None, typer.Option(help="A concept to remove, or a removal's file; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Denoising steps; the run's by default.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale; the run's by default.")] = None,
    out: Annotated[Path, typer.Option(callback=file_out(".png"), help="The PNG to write.")] = Path("out.png"),
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Do not warn of removals made for another model.")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Draw a prompt without and with removals, side by side.

    Both images start from the same noise. Without --remove, only the unedited image is drawn.

    Example: saeuron generate "An image of cat in neon style." --remove neon --out cat.png
    """
    from flows.check import check_device
    from flows.environment import prepare
    from storage import Workspace
    from tasks.generate import compare, find

    if guidance is not None and not math.isfinite(guidance):
        raise ConfigError(f"--guidance {guidance}: expected a finite number of 0 or more, such as 7.5.")
    # Without a workspace the defaults do; one that was named must be there.
    source = context.get_parameter_source("workspace")
    if source and source.name != "DEFAULT":
        Workspace.open(workspace, create=False)
    prepare(workspace, verbose=False)
    check_device(device)
    files = find(workspace, remove or [])
    overlap, lost = compare(workspace, prompt, files, seed, steps, guidance, out, device, threads, any_model)
    for name, count in overlap.items():
        if count:
            say(f"{count} (step, latent) pairs of {name} are in more than one removal; the stronger factor was used")
    if lost:
        say(f"the prompt is longer than the model reads; it does not read {lost!r}")
    say(f"wrote {out}: unedited beside edited" if files else f"wrote {out}")
