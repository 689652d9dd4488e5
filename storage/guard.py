"""Which SQL is let through: one SELECT that only reads.

DuckDB's word for the kind of a statement is not enough: `WITH x AS (COPY ... TO 'file') SELECT ...` is a SELECT to it,
and so is a call of json_execute_serialized_sql, and both wrote a file within the allowed folders. So the parsed tree
is walked as well, and only what is known to read is let through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from storage.errors import BadQuery

_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})


def only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement in `sql`, a SELECT without side effects.

    Raises BadQuery for anything else, duckdb.Error for what is not SQL.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise BadQuery(f"the query holds {len(statements)} statements: expected one SELECT")
    statement = statements[0]
    if statement.type != duckdb.StatementType.SELECT:
        raise BadQuery(f"the query is {statement.type.name}: expected SELECT; only runs change what is stored")
    [(text,)] = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement.query]).fetchall()
    tree = json.loads(text)
    if tree["error"]:
        raise BadQuery("the query cannot be checked (PIVOT needs its values named by IN): expected a plain SELECT")
    for part in _parts(tree):
        kind = str(part.get("type"))
        if kind.endswith("_NODE") and kind not in _NODES:
            raise BadQuery(f"the query holds a {kind.split('_')[0]}: expected SELECT; only runs change what is stored")
        if kind == "TABLE_FUNCTION" and (name := _function_name(part)) not in _TABLE_FUNCTIONS:
            raise BadQuery(f"the query reads from {name}(): expected a view, or {', '.join(sorted(_TABLE_FUNCTIONS))}")
    return statement


def _function_name(part: dict[str, Any]) -> str:
    return str(part["function"].get("function_name", "a call")).lower()


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    # A list in place of recursion: a query may be nested deeper than Python's stack.
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
