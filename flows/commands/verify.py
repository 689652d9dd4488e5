"""`saeuron verify`: find damage, and repair it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def verify(
    workspace: WorkspaceOption = WORKSPACE,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare its hash.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged files to `damaged/`, so that they can be made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a workspace for damage.

    It checks artifacts, their copies, records and configurations. Exit code 1: there was damage, repaired or not.

    Example: saeuron verify --deep --repair
    """
    from flows.hints import command
    from flows.upkeep import verify as flow

    opened, mark = flow.opened(workspace, migrate=repair)

    def find() -> list[flow.Damage]:
        return [*mark, *flow.find(opened, deep)]

    found, aside = flow.repair(opened, find) if repair else (find(), None)
    todo = flow.commands(opened, found)
    if as_json:
        rows = [{k: v for k, v in asdict(d).items() if k not in ("source", "beside")} for d in found]
        shown = {"damage": rows, "aside": aside if repair else None, "next": todo}
        say(json.dumps(shown, indent=2, default=str))
    elif not found:
        say(f"workspace: {opened.address}")
        say("damaged: none" + ("" if deep else " (sizes and JSON; --deep reads every byte)"))
    else:
        say(flow.page(opened, found))
        say(f"\n{len(found)} damaged" + (f"; the damaged files are in {aside}" if repair else ""))
        if repair:
            say("\n".join(f"next: {command}" for command in todo) or "next: nothing has to be made again")
        else:
            options = [*(["--deep"] if deep else []), "--repair"]
            say(f"next: {command('verify', *options, workspace=opened)}")
    if found:
        raise typer.Exit(1)
