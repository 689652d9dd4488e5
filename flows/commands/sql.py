"""`saeuron sql`: query the tables."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import WORKSPACE, WorkspaceOption, say


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT statement.")],
    workspace: WorkspaceOption = WORKSPACE,
    format: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option(help="Format of the answer.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write the answer to this file.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Stop the query after this many seconds.")] = 60.0,
) -> None:
    """Query the tables in SQL.

    The query must be one SELECT. It cannot read or write files.

    The view `columns` lists all views with their columns, units and meanings: select * from columns

    Example: saeuron sql "select concept, metric, value from metrics order by all"
    """
    from storage import Workspace
    from storage.catalog.query import format_table, run_query

    text = format_table(run_query(Workspace.open(workspace, create=False), query, seconds=seconds), format, out)
    say(text if out is None else f"wrote {out}")
