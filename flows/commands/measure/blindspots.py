"""`saeuron blindspots`: what a model draws too rarely or too often beside real pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def blindspots(
    real: Annotated[str, typer.Option(help="Real pictures: canvas or canvas20 (its renderer), or a folder.")],
    features: Annotated[
        str, typer.Option(help="What sees them: canvas, canvas20, or a vision model's folder or hub id.")
    ] = "canvas",
    captions: Annotated[
        Path | None, typer.Option(help="Table beside a folder: file, text, domains; its captions.csv by default.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="A removal to attach: a concept, or its file; repeatable.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=8, help="Real pictures, and as many generated ones.")] = 480,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare a model with real pictures: what is missing?

    Latents of a vision model's rows, learned from both sides, say what is drawn too rarely and too often; those that
    have a rule in words are named. Generated pictures nearer to a real one than real ones are to each other count as
    copies, and some are out of the ordinary. Controls: real pictures on either side, shuffled profiles. A folder's
    captions are the prompts; otherwise they are the configuration's test prompts. A new workspace takes the
    configuration that ships with the project. Views: `prevalence`, `pairs`, `ood`.

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
    check_blindspots(config, real, str(captions or ""), features, pairs)
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
            config, str(opened.root), real, str(captions or ""), features, files, pairs, device, threads
        )
    if as_json:
        say(json.dumps({k: made[k] for k in ("blindspots", "summary", "rows", "picture")}, indent=2))
        return
    say("\n".join(lines(made)))
    say(f"picture: {opened.root / made['picture']}")
    query = "select latent, rule, share, q, verdict from prevalence where named order by share"
    say(f"next: {command('sql', query, workspace=opened)}")
