"""`saeuron latent steer`: turn latents up or down, and measure whether images change as their rules say."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def steer(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="The SAE: its id, a prefix of the id, or its hookpoint.")],
    latent: Annotated[
        int | None,
        typer.Argument(metavar="[LATENT]", min=0, help="One latent; by default those with the most confident rules."),
    ] = None,
    latents: Annotated[int, typer.Option(min=1, help="Number of latents, those with the most confident rules.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Images for each direction and strength.")] = 24,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Turn latents up and down; do images follow their rules?

    Needs `saeuron sae explain` first. A latent is turned up on prompts that do not ask for what its rule says, and down
    on prompts that do. The strength is chosen on validation prompts and judged on test prompts: images that follow the
    rule, other domains that change, images out of the ordinary. Controls of the same length: a random latent and a
    difference of means. The view `steering` has every setting; the workspace's pictures have a sheet of each latent.

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
