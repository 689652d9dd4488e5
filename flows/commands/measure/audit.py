"""`saeuron audit`: try to get a removed concept back."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def audit(
    concept: Annotated[str, typer.Argument(help="The concept that was removed.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Attack only the removal by this method; repeatable; all by default.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="none, paraphrase, random, gradient, embedding, inversion; repeatable; all by default."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            help="File of attack prompts (Ring-A-Bell, P4D, MMA, or lines); replaces the default attacks; repeatable."
        ),
    ] = None,
    hide: Annotated[bool, typer.Option("--hide", help="Leave the concept's name out of all attack prompts.")] = False,
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts to attack, also from a file.")] = 24,
    words: Annotated[int, typer.Option(min=1, max=64, help="Words that an attack puts before the prompt.")] = 5,
    iterations: Annotated[int, typer.Option(min=1, help="Updates at each timestep by the attack `gradient`.")] = 40,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Attack a removal: does the concept come back?

    The attacks know the removal: gradients pass through it. Each attack is also run on the unedited model. Those with
    gradients, and their control `random`, are also run on the removal weakened to 1/2, 1/4 or 1/8 of its strength,
    where it leaves the concept in nearest to half of the pictures. The view `attacks` has every image.

    Example: saeuron audit neon --attack gradient --attack inversion
    """
    from flows.check import check_device
    from flows.environment import check_server, prepare
    from saeuron.attacks import ATTACKS
    from saeuron.errors import UnknownName
    from storage import Workspace
    from tasks.registry import runs
    from tasks.registry.concepts import Roster

    for name in attack or []:
        if name not in ATTACKS:
            raise UnknownName("attack", name, ATTACKS)
    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    check_device(device)
    config = runs.remembered(opened)
    roster = Roster.of(opened, config)
    from flows import audit as flow
    from flows.display import on_prefect
    from flows.hints import command
    from tasks.audit import AuditConfig

    found = flow.removals(opened, concept, method or [])
    domain = next((d for d, names in roster.present(config).items() if concept in names), None)
    flow.check(config, domain, concept)
    files = flow.listed(file or [])
    chosen = attack or ([] if files else list(ATTACKS))
    how = AuditConfig(prompts=prompts, words=words, iterations=iterations, hide=hide)
    with on_prefect(console_for(as_json)):
        made = flow.audit_flow(
            config, str(opened.root), concept, [tuple(f) for f in found], chosen, how, device, threads, files
        )
    if as_json:
        say(json.dumps({"concept": concept, "rows": made["rows"]}, indent=2))
    else:
        say("\n".join(flow.lines(concept, made["rows"], opened)))
        query = f"select * from attacks where concept = '{concept}' and success"
        say(f"next: {command('sql', query, workspace=opened)}")
    if made["failures"]:
        for what, why in made["failures"]:
            typer.echo(f"FAILED  {what}: {why}", err=True)
        raise typer.Exit(1)
