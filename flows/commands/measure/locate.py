"""`saeuron locate`: which blocks and attention heads carry a concept."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def locate(
    concept: Annotated[str, typer.Argument(help="The concept.")],
    instead: Annotated[
        list[str] | None, typer.Option(help="Another concept that stands in its place; repeat it; all by default.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of test prompts to patch.")] = 8,
    examples: Annotated[int, typer.Option(min=2, help="Images to score codes by, half with the concept.")] = 50,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Find the blocks and heads that carry a concept.

    By patching: what an attention head gives is taken from a prompt with the concept to the same prompt with another,
    on the same noise; the share is how much of the change in the prediction comes with it. Beside it, codes learned
    from ten images, and how far they agree. Controls: a prompt without the concept, shuffled labels, and a difference
    of means. `heads` has every step; the heat map is in the workspace's pictures.

    Example: saeuron locate neon --instead sketch --instead dots
    """
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from storage import Workspace
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    check_device(device)
    config = runs.remembered(opened)
    from flows.display import on_prefect
    from flows.hints import command
    from flows.inspection.locate import check, lines, locate_flow
    from tasks.inspection.locate import LocateConfig

    domain = check(opened, config, concept, instead or ())
    how = LocateConfig(pairs=pairs, examples=examples, instead=tuple(instead or ()))
    with on_prefect(console_for(as_json)):
        made = locate_flow(config, str(opened.root), concept, domain, how, device, threads)
    if as_json:
        say(
            json.dumps({"concept": concept, **{k: made[k] for k in ("locate", "summary", "rows", "picture")}}, indent=2)
        )
        return
    say("\n".join(lines(made)))
    say(f"picture: {opened.root / made['picture']}")
    query = f"select hookpoint, head, timestep, share from heads where concept = '{concept}' order by share desc"
    say(f"next: {command('sql', query, workspace=opened)}")
