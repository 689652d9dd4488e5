"""SQL over a workspace: DuckDB in memory, with views over the Parquet files of the committed artifacts.

The views are rebuilt from the manifests at each connection: no state can become stale, a workspace can be moved, and no
file is locked. `columns.py` describes the views.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa

from storage.catalog.declared import sql
from storage.catalog.everything import DAMAGED, everything
from storage.catalog.source import Source
from storage.identity import is_id
from storage.workspace import Workspace

_connections = itertools.count()


def connect(workspace: Workspace | Path | str, memory: str = "1GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with every view of a workspace, as committed when it was opened.

    The view `columns` describes all views. The views of built-in stages exist, empty, in an empty workspace too.

    The connection reads no file outside the workspace's artifacts, and its settings are locked; `memory` and `threads`
    bound its work. It trusts its caller: use `query.run_query` for SQL from others. Raises NotAWorkspace or
    OtherFormat; ObjectDamaged or StoreAway if a table has to come from an object store.
    """
    if not isinstance(workspace, Workspace):
        workspace = Workspace.open(workspace, create=False)
    # Many small statements follow, for which more threads only wait for each other; `_lock_down` sets the caller's.
    connection = duckdb.connect(":memory:", config={"threads": 1})
    # Committed files do not change, and a query about one latent would read the footers of hundreds again and again.
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("CREATE SCHEMA source")
    found, declared = everything(workspace)
    workspace.backend.bring(path for source in found for path in source.files)
    for source in found:
        _create(connection, source)
    for view in declared.values():
        connection.execute(sql(view))
    connection.execute(files("storage.catalog").joinpath("views.sql").read_text("utf-8"))
    _lock_down(connection, workspace.root / "artifacts", memory, threads)
    return connection


def left_out(connection: duckdb.DuckDBPyConnection) -> int:
    """How many artifacts and records of the workspace are damaged, so that no view has their rows."""
    [(count,)] = connection.execute(f"SELECT count(*) FROM source.{DAMAGED}").fetchall()
    return int(count)


def _create(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    if source.files:
        paths = ", ".join(_text(_literal(path)) for path in source.files)
        names = ", ".join(f'"{name}"' for name in source.schema.names)
        rows = f"SELECT {names}, file_index FROM read_parquet([{paths}])"
        if len({*map(_version, source.files)}) > 1 or not _binds(connection, rows):
            # Files of an earlier version of the stage may lack columns: null there.
            connection.from_arrow(_empty(source)).create(f'source."{source.name}_none"')
            rows = (
                f'SELECT {names}, file_index FROM (SELECT * FROM source."{source.name}_none" UNION ALL BY NAME '
                f"SELECT *, file_index FROM read_parquet([{paths}], union_by_name = true))"
            )
        connection.execute(f'CREATE VIEW source."{source.name}" AS {rows}')
        return
    table = _empty(source) if source.table is None else source.table
    connection.from_arrow(table).create(f'source."{source.name}"')


def _empty(source: Source) -> pa.Table:
    return source.schema.append(pa.field("file_index", pa.uint64())).empty_table()


def _version(path: Path) -> str:
    """The version of the stage whose artifact holds a file: the second part of the artifact's id."""
    return next((part.split("_")[-2] for part in reversed(path.parts) if is_id(part)), "")


def _binds(connection: duckdb.DuckDBPyConnection, rows: str) -> bool:
    try:
        connection.sql(rows)
    except duckdb.BinderException:
        return False
    return True


def _lock_down(connection: duckdb.DuckDBPyConnection, readable: Path, memory: str, threads: int) -> None:
    # DuckDB creates this folder when it has to spill, and deletes it.
    spill = Path(tempfile.gettempdir()) / f"storage-sql-{os.getpid()}-{next(_connections)}"
    settings = {
        "threads": str(int(threads)),
        "memory_limit": _text(memory),
        "temp_directory": _text(str(spill)),
        "max_temp_directory_size": _text("10GB"),
        "python_enable_replacements": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        # In both forms, because DuckDB checks before it has resolved a glob.
        "allowed_directories": f"[{_text(f'{readable}/')}, {_text(f'{_literal(readable)}/')}]",
        "enable_external_access": "false",
        # Last: it locks all settings.
        "lock_configuration": "true",
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {value}")


def _literal(path: Path) -> str:
    """The path as a glob that matches only itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
