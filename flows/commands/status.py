"""`saeuron status`: what a workspace holds."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def status(
    workspace: WorkspaceOption = WORKSPACE,
    deep: Annotated[bool, typer.Option(help="Read every byte and compare its hash.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a workspace holds, and what is damaged.

    Lists artifacts by stage with their sizes, and outdated removals. Exit code 1: something is damaged.

    Example: saeuron status --deep
    """
    from flows.summary import status_page
    from storage import Workspace

    page = status_page(Workspace.open(workspace, create=False), deep)
    say(json.dumps(page, indent=2) if as_json else "\n".join(page["lines"]))
    if page["problems"]:
        raise typer.Exit(1)
