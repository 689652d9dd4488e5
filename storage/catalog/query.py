"""SQL from users: one SELECT, limited in time, memory and reach; and its result as text or a file."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import types

from storage import text
from storage.catalog.answer import READY, REFUSED
from storage.errors import BadQuery
from storage.files import write_atomic
from storage.workspace import Workspace

RESULT_BYTES = 1 << 30
"""Largest result in bytes; DuckDB's memory limit does not count its output."""
TEXT_CELLS = 10_000_000
"""Most cells (rows x columns) of a result as text: each becomes a Python object of 100 bytes or more."""
TEXT_BYTES = 1 << 28
"""Largest result as text, in bytes of the table."""

_GLANCE = 0.1
"""Seconds between looks at whether a query is to be stopped."""


def _table_files(workspace: Workspace) -> Iterator[Path]:
    """The files behind the views. A generator, because a local workspace never asks for them."""
    from storage.catalog.everything import everything

    for source in everything(workspace)[0]:
        yield from source.files


def run_query(
    workspace: Workspace | Path | str,
    sql: str,
    *,
    seconds: float = 60.0,
    memory: str = "1GB",
    threads: int = 2,
    stop: threading.Event | None = None,
    left_out: Callable[[int], None] = lambda count: None,
) -> pa.Table:
    """The result of one SELECT over the views of a workspace, as committed at the time of the call.

    If artifacts or records are damaged, so that the views lack their rows, `left_out` is called with how many.

    The query runs in a process of its own (see `guard`), which is killed after `seconds`, or when an exception, such as
    KeyboardInterrupt, ends the waiting, or when another thread sets `stop`. Raises BadQuery, in one line, for any other
    statement or several, for a query that DuckDB cannot parse, bind or run, or that exceeds `seconds`, `memory` or
    RESULT_BYTES; NotAWorkspace, OtherFormat.
    """
    if not isinstance(workspace, Workspace):
        workspace = Workspace.open(workspace, create=False)
    # The query's process has no credentials, so the tables of an object store are fetched here.
    workspace.backend.bring(_table_files(workspace))
    with tempfile.TemporaryDirectory(prefix="storage-sql-") as name:
        folder = Path(name)
        limits = {"memory": memory, "threads": threads, "seconds": seconds, "bytes": RESULT_BYTES}
        job = {"root": str(workspace.root), "sql": sql, **limits}
        (folder / "query.json").write_text(json.dumps(job))
        command = [sys.executable, "-P", "-m", "storage.catalog.guard", name]
        with (
            (folder / "log").open("wb") as log,
            _deaf() as listen,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(folder),
                bufsize=0,
                # Otherwise Ctrl-C would reach it too, and end it with a traceback.
                start_new_session=True,
            ) as process,
        ):
            try:
                listen()
                rows = _answer(process, folder, seconds, memory, stop)
            finally:
                process.kill()
                # After Ctrl-C `with` does not wait, and the process's memory would outlive this call.
                process.wait()
        if damaged := int((folder / "left_out").read_text()):
            left_out(damaged)
        return rows


@contextmanager
def _deaf() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C until the yielded function is called: during the start of a process it would orphan that process."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals reach the main thread only
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}

    def listen() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        while came:
            signal.raise_signal(came.pop())

    try:
        yield listen
    finally:
        listen()


def _environment(folder: Path) -> dict[str, str]:
    """Environment of the query's process: the code's location, and a folder of its own for spilled data."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path), "TMPDIR": str(folder)}


def _answer(
    process: subprocess.Popen[bytes], folder: Path, seconds: float, memory: str, stop: threading.Event | None
) -> pa.Table:
    assert process.stdout is not None
    late, over = threading.Event(), threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    def watch() -> None:
        while stop is not None and not over.wait(_GLANCE):
            if stop.is_set():
                process.kill()
                return

    if stop is not None:
        threading.Thread(target=watch, daemon=True).start()

    # Connecting takes longer the larger the workspace is, and is not counted: the query's time starts after it.
    process.stdout.read(len(READY))
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        # In pieces, because Python handles Ctrl-C only between its own steps.
        rows = bytearray()
        while piece := process.stdout.read(1 << 20):
            rows += piece
        ended = process.wait()
    finally:
        timer.cancel()
        over.set()
    if stop is not None and stop.is_set():
        raise BadQuery("the query was stopped")
    if ended == 0:
        with pa.ipc.open_stream(pa.py_buffer(rows)) as reader:
            return reader.read_all()
    if late.is_set():
        raise BadQuery(f"the query took over {seconds:g} seconds: ask for less, or raise the limit")
    if ended == REFUSED:
        raise BadQuery((folder / "refused").read_text("utf-8"))
    if ended < 0:
        name = signal.Signals(-ended).name
        raise BadQuery(
            f"the query's process was ended by {name}, as when it needs more memory than {memory}: ask for less"
        )
    said = (folder / "log").read_text("utf-8", "replace").splitlines() or [f"exit code {ended}"]
    raise BadQuery(f"the query's process failed: {said[-1]}")


def format_table(table: pa.Table, fmt: Literal["table", "csv", "json", "parquet"], out: Path | None = None) -> str:
    """The table as text; with `out`, the file is written and the text is one line that names it.

    `table` fits the terminal's width: aligned columns, or one block per row. `csv` and `json` (a list of objects) are
    complete, `parquet` needs `out`. Raises BadQuery for parquet without `out`, another `fmt`, or two columns of one
    name in a format other than `table`; DiskFull.
    """
    twice = next((name for name, count in Counter(table.column_names).items() if count > 1), None)
    if twice is not None and fmt != "table":
        raise BadQuery(f"two columns are named {twice!r}: for {fmt} each needs its own name, give one with AS")
    if fmt == "parquet":
        if out is None:
            raise BadQuery("the format parquet is not text: name a file for it with --out FILE")
        from storage.parquet import write_parquet  # Its import takes as long as all the others.

        write_parquet(out, table)
    else:
        if fmt not in _TEXT:
            raise BadQuery(f"there is no format {fmt!r}: expected table, csv, json or parquet")
        if table.num_rows * table.num_columns > TEXT_CELLS or table.nbytes > TEXT_BYTES:
            raise BadQuery(
                f"the result has {table.num_rows} rows of {table.num_columns} columns, too many for text: "
                f"add a LIMIT, or use --format parquet --out FILE"
            )
        shown = _TEXT[fmt](table)
        if out is None:
            return shown
        write_atomic(out, f"{shown}\n".encode())
    return f"{_rows_of(table)} written to {out}"


def _rows_of(table: pa.Table) -> str:
    return "1 row" if table.num_rows == 1 else f"{table.num_rows} rows"


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _plain(value: Any) -> Any:
    """Values that JSON lacks: Decimal (integers beyond 64 bits) as a number, times as ISO text, bytes as hex."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """NaN and infinity as null, at any depth, because JSON has neither."""
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
    right, columns = [], []
    for i, column in enumerate(table.columns):
        if any(test(column.type) for test in (types.is_integer, types.is_floating, types.is_decimal)):
            right.append(i)
        values = column.to_pylist(maps_as_pydicts="strict")
        columns.append([f"{value:.6g}" if isinstance(value, float) else _cell(value) for value in values])
    rows = list(zip(*columns, strict=True))
    return f"{text.table(table.column_names, rows, right=right)}\n({_rows_of(table)})"


_TEXT = {"table": _text, "csv": _csv, "json": _json}
