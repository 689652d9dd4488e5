"""`saeuron locate`: which blocks and attention heads carry a concept."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def locate(
    concept: Annotated[str, typer.Argument(help="The concept to locate.")],
    instead: Annotated[
        list[str] | None, typer.Option(help="A concept to compare with; repeatable; all by default.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of test prompts to patch.")] = 8,
    examples: Annotated[int, typer.Option(min=2, help="Images for scoring codes, half with the concept.")] = 50,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Find the blocks and heads that carry a concept.

    This is done by activation patching: the output of an attention head is copied from a run on a prompt with the
    concept into a run on the same prompt with another concept, from the same noise. The share is how much of the change
    in the prediction follows. Codes learned from ten images are compared with it. Controls: a prompt without the
    concept, shuffled labels, and a difference of means. The view `heads` has every step; the heat map is in the
    workspace's pictures.

    Example: saeuron locate neon --instead sketch --instead dots
    """
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from saeuron.errors import ConfigError
    from storage import Workspace
    from tasks.registry import runs

    if examples % 2:
        raise ConfigError(f"--examples {examples}: expected an even number, half of them with the concept.")
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
