"""`saeuron sequence`: concepts removed one after another."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def sequence(
    concepts: Annotated[
        list[str], typer.Argument(help="Two or more concepts, in the order in which they are removed.")
    ],
    method: Annotated[str, typer.Option(help="Method of removal; by default the run's first.")] = "",
    control: Annotated[
        str, typer.Option(help="Control, which should do worse; by default the method with random latents.")
    ] = "",
    orders: Annotated[int, typer.Option(min=1, help="Number of orders: the one given, then random ones.")] = 2,
    own: Annotated[int, typer.Option(min=1, help="Test prompts for each concept, at most.")] = 6,
    retained: Annotated[int, typer.Option(min=1, help="Test prompts that ask for none of the concepts, at most.")] = 60,
    at: Annotated[
        list[int] | None,
        typer.Option(
            help="Measure after this many removals, besides the first and the last; repeatable; by default after each."
        ),
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, over the workspace's configuration; repeatable.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Remove concepts one after another, and measure.

    After each removal, UA is measured over all concepts removed so far, and RA (retain accuracy) over the rest: does
    the first stay removed, and does the rest stay? Several orders are tried, beside removals by a control and the
    unedited model, on the same images. All orders must merge into the same file, which is checked. Existing removals
    and images are used. The view `sequences` has every figure.

    Example: saeuron sequence neon stripes sketch --method saeuron --orders 2
    """
    from flows.config import changed
    from flows.environment import check_server, prepare
    from saeuron import methods
    from storage import Workspace
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    remembered = runs.remembered(opened)
    chosen = method or remembered.method[0]
    control = control or methods.control(chosen, "random")
    told = [f"method=[{chosen}]", f"controls.methods=[{control}]", "controls.concepts=null"]
    from flows.display import on_prefect
    from flows.hints import command
    from flows.measure.sequence import check, lines, sequence_flow
    from flows.work import check_all

    for name in (chosen, control):
        methods.get(name)
    config = changed(remembered, [*(settings or ()), *told])
    domains = check(config, concepts, chosen, control, orders, at or ())
    check_all(config, device, opened)
    with on_prefect(console_for(as_json)):
        made = sequence_flow(
            config, str(opened.root), domains, chosen, control, orders, own, retained, tuple(at or ()), device, threads
        )
    if as_json:
        say(json.dumps({name: made[name] for name in ("sequence", "summary", "rows", "picture", "file")}, indent=2))
        return
    say("\n".join(lines(made)))
    say(f"picture: {opened.root / made['picture']}")
    say(f"file: {made['file']}")
    say(f"next: {command('generate', 'A PROMPT', '--remove', made['file'], '--out', 'image.png', workspace=opened)}")
