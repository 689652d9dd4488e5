"""`saeuron sql`: ask the tables."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import WORKSPACE, WorkspaceOption, say
from saeuron.errors import ConfigError


def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT statement.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    shell: Annotated[
        bool, typer.Option("--shell", help="Ask at a prompt; or from a pipe, statements that end with ;")
    ] = False,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option(help="How to write the answer.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the screen.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Stop a query after this time.")] = 60.0,
) -> None:
    """Ask the tables in SQL: one SELECT, which can neither read nor write files.

    Tables: prompts, captures, saes, statistics, features, scores, top_features, latents, latent_steps, top_examples,
    sae_steps, removals, images, metrics, runs.

    Example: saeuron sql "select concept, metric, value from metrics order by all"
    """
    from storage import Workspace

    if (query is None) != shell:
        given = "both QUERY and --shell" if shell else "neither QUERY nor --shell"
        raise ConfigError(
            f"{given}: expected one of them, such as saeuron sql 'select * from saes', or saeuron sql --shell"
        )
    if shell:
        from flows.sql_shell import Shell

        if out is not None or format == "parquet":
            raise ConfigError("--shell prints its answers; expected no --out, and --format table, csv or json")
        if not Shell(Workspace.open(workspace, create=False), format, seconds).sit():
            raise typer.Exit(1)
        return
    from storage.catalog.query import format_table, run_query

    assert query is not None
    text = format_table(run_query(Workspace.open(workspace, create=False), query, seconds=seconds), format, out)
    say(text if out is None else f"wrote {out}")
