"""`saeuron blindspots`: what a model draws too rarely or too often beside real pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def blindspots(
    real: Annotated[str, typer.Option(help="Real pictures: canvas or canvas20 (its renderer), or a folder.")],
    features: Annotated[str, typer.Option(help="Vision model: canvas, canvas20, a folder or a hub id.")] = "canvas",
    captions: Annotated[
        Path | None, typer.Option(help="Table for a folder (columns file, text, domains); by default its captions.csv.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Attach a removal: a concept, or a removal's file; repeatable.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Model (folder, hub id) drawn beside without removals; with --remove: the same model.")
    ] = "",
    pairs: Annotated[int, typer.Option(min=8, help="Number of real pictures, and of generated ones.")] = 480,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare a model with real pictures: what is missing?

    An SAE is trained on a vision model's activations for real and generated pictures. Its latents show what is drawn
    too rarely or too often; those that have a rule are named in words. A generated picture that is nearer to a real one
    than real ones are to each other counts as a copy. Pictures out of the ordinary are counted too. Controls: real
    pictures on both sides, and shuffled latents. With a removal the model is also drawn without it, by the same
    prompts and noise: what it draws too rarely anyway is not the removal's doing. The prompts are a folder's captions,
    or else the configuration's test prompts. A new workspace uses the embedded configuration, canvas. Views:
    `prevalence`, `pairs`, `ood`.

    Example: saeuron blindspots --real canvas --features canvas --remove neon
    """
    from flows.check import check_blindspots, check_device
    from flows.config import load
    from flows.environment import check_server, prepare
    from saeuron.blindspots.real import check
    from saeuron.errors import ConfigError
    from storage import Workspace
    from tasks.generate import find
    from tasks.registry import runs

    check(real)
    if captions is not None and not captions.is_file():
        raise ConfigError(f"no such table: {captions}; expected a file with the columns file and text.")
    check_device(device)
    known = (workspace / runs.CONFIG).exists()
    config = runs.remembered(Workspace.open(workspace, create=False)) if known else load(None)
    files = [str(path.absolute()) for path in find(workspace, remove or [])]
    against = against or (config.model.spec if files else "")
    check_blindspots(config, real, str(captions or ""), features, pairs, against, bool(files))
    opened = Workspace.open(workspace)
    prepare(opened.root, verbose)
    check_server()
    if not known:
        runs.remember(opened, config)
    from flows.display import on_prefect
    from flows.hints import command
    from flows.inspection.blindspots import blindspots_flow, lines

    with on_prefect(console_for(as_json)):
        made = blindspots_flow(
            config, str(opened.root), real, str(captions or ""), features, files, pairs, device, threads, against
        )
    if as_json:
        say(json.dumps({k: made[k] for k in ("blindspots", "summary", "rows", "picture")}, indent=2))
        return
    say("\n".join(lines(made)))
    say(f"picture: {opened.root / made['picture']}")
    query = "select latent, rule, share, q, verdict from prevalence where named order by share"
    say(f"next: {command('sql', query, workspace=opened)}")
