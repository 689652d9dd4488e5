"""The sandbox of queries that users write: a check of the SQL, and a process to run it in.

Only a SELECT of the views passes. DuckDB's statement type is not a sufficient check: for DuckDB, `WITH x AS (COPY ...
TO 'file') SELECT ...` is a SELECT, and so is a call of json_execute_serialized_sql; both wrote a file within the
allowed folders. So the parsed tree is checked too, and only what is known to read is allowed.

A query runs in a process of its own (`python -m storage.catalog.guard FOLDER`), because DuckDB's limits do not hold
within one operation: `range(1000000000)` as a list took 8 GB and minutes, and no interrupt stopped it. Here the kernel
limits the memory, and `storage.catalog.query` kills the process of a query that exceeds its time.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import duckdb
import pyarrow as pa

from storage.catalog.answer import READY, REFUSED
from storage.catalog.connection import connect, left_out
from storage.catalog.words import explained, no_view
from storage.errors import BadQuery

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
_REFUSED_FUNCTIONS = frozenset(
    {
        # Functions that reveal the machine or the settings, change state, or only wait.
        *("current_setting", "getvariable", "getenv", "current_query", "get_block_size", "json_serialize_plan"),
        *("nextval", "currval", "setval", "setseed", "write_log", "sleep_ms", "pg_sleep"),
    }
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_BATCH_ROWS = 100_000
_SPARE_BYTES = 1 << 30
"""Memory for DuckDB, Arrow and Python beyond the query's own: code, stacks, a batch on its way out."""
_FILE_BYTES = 10 * 10**9
"""Largest temporary file in bytes; DuckDB's limit for all of them together is the same."""
_MOST_SECONDS = 1e9
"""Largest limit on processor time that every system accepts."""
_STATM = Path("/proc/self/statm")
"""Linux's figure of the process's mapped memory; on other systems only DuckDB's limit applies."""


def only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement in `sql`, a SELECT from the views without side effects.

    Raises BadQuery for anything else, duckdb.Error for text that is not SQL.
    """
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise BadQuery("the query is not text: expected characters that UTF-8 can encode") from None
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise BadQuery(f"the query holds {len(statements)} statements: expected one SELECT")
    statement = statements[0]
    try:
        kind = statement.type.name
    except ValueError:  # a type that DuckDB's Python client has no name for, such as UPDATE EXTENSIONS
        kind = "of another kind"
    if kind == "MULTI" and "pivot" in sql.lower():
        # DuckDB makes several statements of it, the first of which asks for the values.
        raise BadQuery(
            "PIVOT needs its values: name them by IN, as in PIVOT metrics ON metric IN ('UA') USING avg(value)"
        )
    if kind != "SELECT":
        raise BadQuery(f"the query is {kind}: expected SELECT; only runs change what is stored")
    [(text,)] = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement.query]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError:
        raise BadQuery("the query is nested too deeply: expected a few hundred levels at most") from None
    if tree["error"]:
        raise BadQuery("the query cannot be checked (PIVOT needs its values named by IN): expected a plain SELECT")
    internal = connection.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    _check(tree, {name for (name,) in internal}, views(connection))
    return statement


def views(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The views that queries may read, with their columns."""
    found: dict[str, list[str]] = {}
    for view, column in connection.execute("SELECT view_name, column_name FROM columns").fetchall():
        found.setdefault(view, []).append(column)
    return found


def _check(tree: Any, internal: set[str], views: Collection[str]) -> None:
    parts = list(_parts(tree))
    ctes = {str(entry["key"]).lower() for part in parts if "cte_map" in part for entry in part["cte_map"]["map"]}
    if odd := sorted(name for name in ctes if not _PLAIN.fullmatch(name)):
        # Elsewhere in the query such a name could mean a file.
        raise BadQuery(f"the query's WITH defines {odd[0]!r}: expected a name of letters, digits and underscores")
    if taken := sorted(ctes & internal):
        # Within its own definition such a name would mean DuckDB's view.
        raise BadQuery(f"the query's WITH defines {taken[0]!r}, a table of DuckDB's own: choose another name")
    for part in parts:
        kind = str(part.get("type"))
        if kind.endswith("_NODE") and kind not in _NODES:
            raise BadQuery(f"the query holds a {kind.split('_')[0]}: expected SELECT; only runs change what is stored")
        if kind == "BASE_TABLE":
            _check_table(part, ctes, views)
        if kind == "SHOW_REF" and part["table_name"] not in {"", '"tables"', *views}:
            raise BadQuery(f"the query shows {part['table_name'].strip('_')}: expected SHOW TABLES or DESCRIBE VIEW")
        if kind == "SHOW_REF" and part["show_type"] == "SHOW_FROM":
            raise BadQuery("the query shows the tables of another schema: expected SHOW TABLES or DESCRIBE VIEW")
        if kind == "TABLE_FUNCTION" and (name := _function_name(part["function"])) not in _TABLE_FUNCTIONS:
            raise BadQuery(f"the query reads from {name}(): expected a view, or {', '.join(sorted(_TABLE_FUNCTIONS))}")
        if (name := _function_name(part)) in _REFUSED_FUNCTIONS:
            raise BadQuery(f"the query calls {name}(), which is not allowed: expected functions of the columns")


def _check_table(part: dict[str, Any], ctes: set[str], views: Collection[str]) -> None:
    path = [str(name) for name in part["qualified_name"]["path"]]
    # As a list, so that a name that contains a dot is not split.
    if path[:-1] in ([], ["main"], ["memory", "main"]) and path[-1].lower() in {*ctes, *views}:
        return
    raise BadQuery(no_view(".".join(path), views))


def _function_name(part: dict[str, Any]) -> str:
    return str(part.get("function_name", "")).lower()


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    # A loop instead of recursion: a query may be nested deeper than Python's stack.
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def main(folder: Path) -> NoReturn:
    """Answer the query in `folder`: its rows as an Arrow stream on standard output, or the reason in `refused`.

    Ends the process without destructors: closing a partly read stream of DuckDB 2.0.0 hung in one of 25 runs.

    `query.json` holds {root, sql, memory, threads, seconds, bytes}.
    """
    job = json.loads((folder / "query.json").read_text())
    # Anything that a library prints must not end up among the rows.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    there: dict[str, list[str]] = {}
    try:
        connection = connect(job["root"], memory=job["memory"], threads=job["threads"])
        there = views(connection)
        (folder / "left_out").write_text(str(left_out(connection)))
        _limit(connection, job["seconds"] * job["threads"])
        answer.write(READY)
        answer.flush()
        answer_to(connection, job["sql"], answer, job["bytes"])
        os._exit(0)
    except Exception as error:  # the caller gets one line, whatever happens
        (folder / "refused").write_text(reason(error, job["memory"], there, job["sql"]), "utf-8", "replace")
        os._exit(REFUSED)


def reason(error: Exception, memory: str, views: Mapping[str, Sequence[str]], sql: str) -> str:
    """Why a query has no answer, in one line."""
    if isinstance(error, BadQuery):
        return str(error)
    said = "Out of Memory" if isinstance(error, MemoryError) else str(error)
    return explained(said, memory, views, sql)


def answer_to(connection: duckdb.DuckDBPyConnection, sql: str, file: BinaryIO, most: int) -> None:
    """Write the rows of the one SELECT in `sql` as an Arrow stream.

    Raises BadQuery for any other statement, and when the rows exceed `most` bytes; duckdb.Error as DuckDB does.
    """
    # A relation streams; `execute` would first hold, or spill to disk, the whole result.
    relation = connection.sql(only_select(connection, sql))
    size = 0
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    with pa.ipc.new_stream(file, reader.schema) as rows:
        for batch in reader:
            # The reader needs eight bytes for any cell, even NULL or a bit.
            size += max(batch.nbytes, 8 * batch.num_rows * batch.num_columns)
            if size > most:
                raise BadQuery(f"the result is larger than {most} bytes: add a LIMIT, or ask for less")
            rows.write_batch(batch)
    file.flush()


def _limit(connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
    """Set the kernel's limits: twice the query's memory, and the largest file.

    Processor time is limited too, in case `storage.catalog.query`, which counts the time, was killed.
    """
    [(memory,)] = connection.execute("SELECT parse_formatted_bytes(current_setting('memory_limit'))").fetchall()
    limits = {resource.RLIMIT_FSIZE: _FILE_BYTES, resource.RLIMIT_CORE: 0}
    limits[resource.RLIMIT_CPU] = int(min(time.process_time() + seconds, _MOST_SECONDS)) + 2
    if _STATM.exists():
        now = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = now + 2 * int(memory) + _SPARE_BYTES
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
