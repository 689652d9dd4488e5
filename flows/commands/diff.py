"""`saeuron diff`: what sets two runs apart."""

import json
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def diff(
    run_a: Annotated[str, typer.Argument(help="A run's id or its beginning, last, last~1: see the view runs.")],
    run_b: Annotated[str, typer.Argument(help="Another one.")],
    workspace: WorkspaceOption = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Compare two runs: configurations, artifacts, and figures whose intervals do not meet.

    Example: saeuron diff last~1 last
    """
    from flows.upkeep import diff as flow
    from storage import Workspace

    opened = Workspace.open(workspace, create=False)
    found = flow.compare(opened, flow.resolve(opened, run_a), flow.resolve(opened, run_b))
    say(json.dumps(flow.as_json(found), indent=2) if as_json else flow.page(found))
