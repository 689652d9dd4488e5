"""`saeuron diff`: compare two runs."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def diff(
    run_a: Annotated[str, typer.Argument(help="A run: its id or the beginning of it, last, or last~1.")],
    run_b: Annotated[str, typer.Argument(help="The run to compare it with.")],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Compare two runs: settings, artifacts, figures.

    Only figures whose 95 % intervals do not overlap are listed.

    Example: saeuron diff last~1 last
    """
    from flows.upkeep import diff as flow
    from storage import Workspace

    opened = Workspace.open(workspace, create=False)
    found = flow.compare(opened, flow.resolve(opened, run_a), flow.resolve(opened, run_b))
    say(json.dumps(flow.as_json(found), indent=2) if as_json else flow.page(found))
