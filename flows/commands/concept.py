"""`saeuron concept`: list, show and add concepts."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, say
from flows.commands.run import run_pipeline

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and add concepts.")


@app.command("list")
def concept_list(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """Every concept of the workspace, and how far it is.

    Example: saeuron concept list
    """
    from flows.summary import concept_rows, text_table
    from storage import Workspace

    rows = concept_rows(Workspace.open(workspace, create=False))
    if as_json:
        say(json.dumps(rows, indent=2))
    else:
        say(text_table(["domain", "concept", "scored", "removal", "UA", "IRA", "CRA"], rows))
        say("\nnext: saeuron concept show NAME")


@app.command("show")
def concept_show(name: str, workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """One concept: its removal, its figures and where its pictures are.

    Example: saeuron concept show neon
    """
    from flows.check import check_concepts
    from flows.summary import concept_page
    from storage import Workspace
    from tasks import runs

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    check_concepts([name], config, [a.name for a in runs.joined(opened, config)])
    page = concept_page(opened, name)
    say(json.dumps(page, indent=2) if as_json else "\n".join(page["lines"]))


@app.command("add")
def concept_add(
    file: Annotated[Path, typer.Argument(help="YAML with `name`, `domain` and, if wanted, `templates`.")],
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Add a concept to a workspace; only its own work is done.

    Example: saeuron concept add examples/grain.yaml
    """
    from flows.check import check_added
    from flows.config import load_concept
    from storage import Workspace
    from tasks import runs

    opened = Workspace.open(workspace, create=False)
    config, new = runs.remembered(opened), load_concept(file)
    check_added(new, config)
    runs.add(opened, config, new)
    run_pipeline(config, workspace, [new.name], device, threads, verbose, as_json, keep_config=False)
