"""`saeuron sql`: query the tables."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import WORKSPACE, WorkspaceOption, damaged, file_out, say
from saeuron.errors import ConfigError


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT statement.")],
    workspace: WorkspaceOption = WORKSPACE,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        typer.Option(help="Format of the answer; by default that of --out's name, else table."),
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=file_out(), help="Write the answer to this file.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Stop the query after this many seconds.")] = 60.0,
) -> None:
    """Query the tables in SQL.

    The query must be one SELECT. It cannot read or write files.

    The view `columns` lists all views with their columns, units and meanings: select * from columns

    Example: saeuron sql "select concept, method, metric, value from metrics order by all"
    """
    from storage import Workspace
    from storage.catalog.query import format_table, run_query

    chosen = format or _format_of(out)
    opened = Workspace.open(workspace, create=False)

    def left_out(count: int) -> None:
        damaged(count, opened)

    text = format_table(run_query(opened, query, seconds=seconds, left_out=left_out), chosen, out)
    say(text if out is None else f"wrote {out}")


def _format_of(out: Path | None) -> Literal["table", "csv", "json", "parquet"]:
    """The format that a file's name stands for.

    Raises:
        ConfigError: it stands for none.
    """
    match out.suffix.lower() if out else ".txt":
        case ".csv":
            return "csv"
        case ".json":
            return "json"
        case ".parquet":
            return "parquet"
        case ".txt" | ".md" | "":
            return "table"
    raise ConfigError(f"--out {out}: expected a name that ends in .csv, .json, .parquet or .txt, or give --format.")
