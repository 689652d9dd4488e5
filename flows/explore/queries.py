"""SQL in the browser: the guarded query, its result as a table, a plot where one fits, and as a file."""

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from flows.explore.pages import shown
from flows.explore.shelves import Shelves
from saeuron.pages import plots
from storage.catalog.query import format_table, run_query
from storage.errors import BadQuery

SECONDS = 60.0
"""Longest query."""
ROWS = 500
"""Rows that a page shows; a file holds them all."""
BARS = 40
EXAMPLES = (
    ("The removals, best first", "select concept, method, verdict, value from evaluations order by value desc"),
    ("What was harmed most", "select concept, harmed, before, after, loss from damage order by loss desc limit 20"),
    (
        "Latents with the highest score for any concept",
        "select concept, latent, max(score) as score from top_latents group by all order by score desc limit 20",
    ),
    ("Every table and column", "select * from columns"),
)


def routes(shelves: Shelves) -> APIRouter:
    """The routes of SQL."""
    router = APIRouter()

    @router.get("/sql")
    async def page(request: Request, q: str = "") -> Response:
        error, table, plot = "", None, ""
        if q.strip():
            try:
                table = await _asked(shelves, request, q)
                plot = plot_of(table)
            except BadQuery as problem:
                error = str(problem)
        names, rows = cells(table) if table is not None else ([], [])
        return shown(
            shelves, "sql", title="SQL", q=q, error=error, names=names, rows=rows, plot=plot, examples=EXAMPLES,
            total=table.num_rows if table is not None else None, most=ROWS,
        )  # fmt: skip

    @router.get("/sql.{kind}")
    async def file(request: Request, q: str, kind: Literal["csv", "parquet"]) -> Response:
        table = await _asked(shelves, request, q)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"query.{kind}"
            await asyncio.to_thread(format_table, table, kind, path)
            data = path.read_bytes()
        media = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}[kind]
        return Response(data, media_type=media, headers={"Content-Disposition": f'attachment; filename="query.{kind}"'})

    return router


async def _asked(shelves: Shelves, request: Request, sql: str) -> Any:
    """The result of a query, which ends when nobody waits for it any more. Raises BadQuery."""
    stop = threading.Event()
    query = asyncio.create_task(asyncio.to_thread(run_query, shelves.workspace, sql, seconds=SECONDS, stop=stop))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({query, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        gone.cancel()
    return await query


async def _gone(request: Request) -> None:
    """Wait until the browser has closed the connection.

    `Request.is_disconnected` does not see that here: it looks for an instant, and a middleware takes longer to answer.
    """
    while (await request.receive())["type"] != "http.disconnect":
        pass


def cells(table: Any) -> tuple[list[tuple[str, bool]], list[list[tuple[str, bool]]]]:
    """([(column, whether it holds numbers)], the first ROWS rows as [(text, whether it is a number)])."""
    import pyarrow.types as types

    numeric = [types.is_integer(c.type) or types.is_floating(c.type) for c in table.columns]
    names = list(zip(table.column_names, numeric, strict=True))
    columns = [c.to_pylist(maps_as_pydicts="lossy") for c in table.slice(0, ROWS).columns]
    rows = [[(_cell(value), n) for value, n in zip(row, numeric, strict=True)] for row in zip(*columns, strict=True)]
    return names, rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plot_of(table: Any) -> str:
    """A plot of a result of one name and one number a row, or of two numbers; empty where none fits."""
    import pyarrow.types as types

    if table.num_columns < 2 or not 2 <= table.num_rows <= 400:
        return ""
    number = [types.is_integer(c.type) or types.is_floating(c.type) for c in table.columns]
    text = [types.is_string(c.type) for c in table.columns]
    rows = table.to_pylist(maps_as_pydicts="lossy") if len({*table.column_names}) == table.num_columns else []
    if not rows:
        return ""
    last = next(
        (n for n, is_number in zip(reversed(table.column_names), reversed(number), strict=True) if is_number), None
    )
    if last is None:
        return ""
    named = [n for n, is_text in zip(table.column_names, text, strict=True) if is_text]
    if named and table.num_rows <= BARS:
        bars = [(" ".join(str(r[n]) for n in named)[:18], float(r[last])) for r in rows if r[last] is not None]
        return plots.bars(bars, last) if bars else ""
    if all(number[:2]) and table.num_columns == 2 and types.is_integer(table.columns[0].type):
        first = table.column_names[0]
        known = sorted(((r[first], r[last]) for r in rows if r[first] is not None), reverse=first == "timestep")
        return plots.lines([x for x, _ in known], [(last, [y for _, y in known])], last, x_name=first)
    return ""
