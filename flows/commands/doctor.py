"""`saeuron doctor`: what is installed and available, and what to do about what is missing."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model's folder or hub id to check as well; only then the network is used.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Check versions, devices, disk space and cached models.

    Prints one line for each, with what to do. Exit code 1: something has to be done first.

    Example: saeuron doctor
    """
    from flows.upkeep.doctor import examine

    found = examine(workspace, model)
    say(json.dumps([f._asdict() for f in found], indent=2) if as_json else "\n".join(map(str, found)))
    if any(f.verdict == "bad" for f in found):
        raise typer.Exit(1)
