"""`saeuron latent steer`: whether pictures follow when latents are turned up or down."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def steer(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="The SAE: its id, a prefix of the id, or its hookpoint.")],
    latent: Annotated[
        int | None, typer.Argument(metavar="[LATENT]", min=0, help="One latent; the most confident by default.")
    ] = None,
    latents: Annotated[int, typer.Option(min=1, help="How many of the most confident latents.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Images of each sign and setting.")] = 24,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Turn latents up and down; do pictures follow?

    After `saeuron sae explain`: a latent is turned up on prompts that do not ask for what its rule says, down on
    prompts that do. How strongly is chosen on validation prompts, and judged on test prompts: pictures that follow,
    other domains that change, pictures out of the ordinary. Controls, as long: a latent drawn at random, a difference
    of means. `steering` has every setting; a sheet of each latent is in the workspace's pictures.

    Example: saeuron latent steer unet.up_blocks.0.attentions.1 12 --images 12
    """
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from storage import Workspace
    from tasks.registry import runs
    from tasks.registry.saes import find

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    check_device(device)
    config, found = runs.remembered(opened), find(opened, sae)
    from flows.sae.report import check_latent

    if latent is not None:
        check_latent(found.id, found.summary["n_latents"], latent)
    from flows.display import on_prefect
    from flows.hints import command
    from flows.inspection.steer import check, lines, steer_flow

    check(opened, config, found, latent, device)
    with on_prefect(console_for(as_json)):
        made = steer_flow(config, str(opened.root), found.id, latent, latents, images, device, threads)
    if as_json:
        told = {"sae": found.id, **{k: made[k] for k in ("steering", "rows", "pictures")}}
        say(json.dumps(told, indent=2))
        return
    say("\n".join(lines(made["rows"])))
    say(f"pictures: {opened.root / made['pictures'][0]}" + (" and others" if len(made["pictures"]) > 1 else ""))
    query = f"select latent, kind, alpha, on_target, success from steering where sae_id = '{found.id}' and chosen"
    say(f"next: {command('sql', query, workspace=opened)}")
