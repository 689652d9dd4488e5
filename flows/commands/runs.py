"""`saeuron runs`, and the lists of SAEs and removals: what a workspace holds of one kind."""

import json

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, damaged, say
from flows.commands.removal import app as removal_app
from flows.commands.sae import app as sae_app


def runs(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """List the runs, newest first.

    Example: saeuron runs
    """
    columns = ["number", "state", "flow", "started", "made", "cached", "failed"]
    _show(workspace, "runs", columns, "number desc", as_json, ("report", "RUN"))


@sae_app.command("list")
def sae_list(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """List the SAEs of a workspace.

    Example: saeuron sae list
    """
    columns = ["sae_id", "hookpoint", "variant", "dictionary", "n_latents", "k", "fvu"]
    _show(workspace, "saes", columns, "hookpoint, sae_id", as_json)


@removal_app.command("list")
def removal_list(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """List the removals of a workspace.

    UA, IRA and CRA are those on validation prompts.

    Example: saeuron removal list
    """
    columns = ["concept", "method", "domain", "ua", "ira", "cra", "outdated", "removal_id"]
    _show(workspace, "removals", columns, "concept, method", as_json, ("generate", "PROMPT", "--remove", "CONCEPT"))


def _show(
    workspace: object, view: str, columns: list[str], order: str, as_json: bool, then: tuple[str, ...] = ()
) -> None:
    """Print some columns of a view, and the command to go on with."""
    from flows.hints import command
    from flows.summary import counted, text_table
    from storage import Workspace, connect
    from storage.catalog.connection import left_out
    from tasks.registry.runs import records

    opened = Workspace.open(str(workspace), create=False)
    with connect(opened) as views:
        damaged(left_out(views), opened)
        found = views.execute(f"select {', '.join(columns)} from {view} order by {order}").fetchall()
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    if view == "runs" and any(row["state"] == "running" for row in rows):
        states = {record.number: record.state for record in records(opened)}
        rows = [row | {"state": states.get(row["number"], row["state"])} for row in rows]
    if as_json:
        say(json.dumps(rows, indent=2, default=str))
    else:
        # A removal is named by its concept and method, an SAE by its id, which can be copied while it is whole.
        say(text_table(columns, rows, wrapped=["hookpoint"], optional=["domain", "removal_id", "n_latents", "k"]))
        noun = {"saes": "SAE"}.get(view, view.removesuffix("s"))
        percent = any(isinstance(value, float) for row in rows for value in row.values())
        say(f"({counted(len(rows), noun)}{'; fractions in percent' if percent else ''})")
        if rows and then:
            say(f"next: {command(*then, workspace=opened)}")
