"""SQL from people: one SELECT, bounded in time, memory and reach; and its result as text or a file."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
import shutil
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from pyarrow import types

from storage.catalog import connect
from storage.columns import COLUMNS
from storage.errors import BadQuery
from storage.files import write_atomic
from storage.guard import only_select
from storage.parquet import write_parquet
from storage.workspace import Workspace

RESULT_BYTES = 1 << 30
"""Largest result in bytes; DuckDB's own memory limit does not count what it hands out."""
_BATCH_ROWS = 100_000
_UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")


def run_query(
    workspace: Workspace | Path | str, sql: str, *, seconds: float = 60.0, memory: str = "1GB", threads: int = 2
) -> pa.Table:
    """The result of one SELECT over the views of a workspace.

    Raises BadQuery, in one line, for any other statement or number of them (see `guard`), for what DuckDB cannot
    parse, bind or run, and for a query that needs more than `seconds`, `memory` or RESULT_BYTES.
    """
    with connect(workspace, memory=memory, threads=threads) as connection:
        try:
            return _fetch(connection, only_select(connection, sql), seconds)
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
            # What fails while rows are handed out comes through Arrow, and has kept no more than DuckDB's message.
            message = str(error)
            if message.startswith("INTERRUPT"):
                message = f"the query took over {seconds:g} seconds: ask for less, or raise the limit"
            elif message.startswith("Out of Memory"):
                message = f"the query needs more memory than {memory}: ask for less, or raise the limit"
            else:
                message = _explained(message)
            raise BadQuery(message) from None


def _fetch(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, seconds: float) -> pa.Table:
    deadline = time.monotonic() + seconds
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        # A relation streams; `execute` would first hold, or spill to disk, all of a result that is too large.
        reader = connection.sql(statement).to_arrow_reader(_BATCH_ROWS)
        batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if size > RESULT_BYTES:
                raise BadQuery(f"the result is larger than {RESULT_BYTES} bytes: add a LIMIT, or ask for less")
            if time.monotonic() > deadline:
                raise duckdb.InterruptException("INTERRUPT: between two batches")
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=reader.schema)
    finally:
        timer.cancel()


def _explained(message: str) -> str:
    first = message.splitlines()[0]
    if (unknown := _UNKNOWN_TABLE.search(message)) is None:
        return f"the query failed: {first}"
    name = unknown[1].strip('"')
    nearest = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"there is no view {name!r}: {hint}the views are {', '.join(COLUMNS)}"


def format_table(table: pa.Table, fmt: Literal["table", "csv", "json", "parquet"], out: Path | None = None) -> str:
    """The table as text to print; or, with `out`, the file written and one line that says so.

    `table` is aligned and cut to the terminal's width, `csv` and `json` (a list of objects) lose nothing, `parquet`
    needs `out`. Raises BadQuery for parquet without `out` or another `fmt`, DiskFull.
    """
    if fmt == "parquet":
        if out is None:
            raise BadQuery("the format parquet is not text: name a file for it with --out FILE")
        write_parquet(out, table)
    else:
        if fmt not in _TEXT:
            raise BadQuery(f"there is no format {fmt!r}: expected table, csv, json or parquet")
        text = _TEXT[fmt](table)
        if out is None:
            return text
        write_atomic(out, f"{text}\n".encode())
    return f"{table.num_rows} rows written to {out}"


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return rows


def _plain(value: Any) -> Any:
    """What JSON has no form for: whole numbers beyond 64 bits come as Decimal, times as ISO text, bytes as hex."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """NaN and infinity as null, at any depth: JSON has neither."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _json(table: pa.Table) -> str:
    rows = [json.dumps(_finite(row), default=_plain, ensure_ascii=False, allow_nan=False) for row in _rows(table)]
    return "[" + ",\n ".join(rows) + "]"


def _cell(value: Any) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return "" if value is None else str(_plain(value) if isinstance(value, bytes | Decimal) else value)


def _csv(table: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in _rows(table))
    return buffer.getvalue().rstrip("\n")


def _text(table: pa.Table) -> str:
    if not table.column_names:
        return ""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        numeric = any(test(column.type) for test in (types.is_integer, types.is_floating, types.is_decimal))
        values = column.to_pylist(maps_as_pydicts="strict")
        cells = [f"{value:.6g}" if isinstance(value, float) else _cell(value) for value in values]
        columns.append(([name, *(cell.replace("\n", " ") for cell in cells)], numeric))
    widths = _fitted([max(map(len, cells)) for cells, _ in columns], shutil.get_terminal_size((120, 24)).columns)
    fitted = [
        [_cut(cell, width).rjust(width) if numeric else _cut(cell, width).ljust(width) for cell in cells]
        for (cells, numeric), width in zip(columns, widths, strict=True)
    ]
    head, *lines = ["  ".join(row).rstrip() for row in zip(*fitted, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([head, rule, *lines, f"({table.num_rows} rows)"])


def _fitted(widths: list[int], total: int) -> list[int]:
    """Widths cut to one common limit, the largest at which all columns stand in `total` letters (at least 6 each)."""
    room = total - 2 * (len(widths) - 1)
    limit = max(widths, default=0)
    while limit > 6 and sum(min(width, limit) for width in widths) > room:
        limit -= 1
    return [min(width, limit) for width in widths]


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"


_TEXT = {"table": _text, "csv": _csv, "json": _json}
