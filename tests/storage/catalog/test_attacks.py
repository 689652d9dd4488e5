"""Hostile SQL through `run_query`: refused in one line, in bounded time and memory, with nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from storage.catalog import query
from storage.catalog.connection import connect
from storage.catalog.guard import _REFUSED_FUNCTIONS, explained, only_select, views
from storage.catalog.query import format_table, run_query
from storage.errors import BadQuery
from storage.workspace import Workspace
from tests.storage.conftest import commit_score, random_sums

WRITING = """
    COPY (SELECT 1) TO '{inside}'
    COPY scores TO '{inside}' (FORMAT parquet)
    COPY source.saes FROM '{inside}'
    EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}'
    EXPLAIN COPY (SELECT 1) TO '{inside}'
    EXPLAIN SELECT 1
    WITH x AS (COPY (SELECT 1) TO '{inside}') SELECT 1
    WITH x AS (COPY (SELECT 1) TO '{statistics}' (FORMAT parquet, USE_TMP_FILE false)) SELECT 1
    WITH y AS (SELECT 1), x AS MATERIALIZED (COPY (SELECT 1) TO '{inside}') FROM x
    SELECT (WITH x AS (COPY (SELECT 1) TO '{inside}') FROM x)
    SELECT 1 WHERE EXISTS (WITH x AS (COPY (SELECT 1) TO '{inside}') FROM x)
    FROM (WITH x AS (COPY (SELECT 1) TO '{inside}') FROM x) UNION ALL SELECT 1
    WITH x AS (DELETE FROM source.runs RETURNING *) FROM x
    WITH x AS (INSERT INTO source.runs BY NAME SELECT 'x' AS run_id RETURNING *) FROM x
    EXPORT DATABASE '{inside}'
    IMPORT DATABASE '{inside}'
    COPY FROM DATABASE memory TO memory
    ATTACH '{inside}' AS x
    ATTACH ':memory:' AS x
    DETACH memory
    USE source
    CHECKPOINT
    VACUUM
    ANALYZE
    CREATE TABLE x AS SELECT 1
    CREATE TEMP TABLE x AS SELECT 1
    CREATE OR REPLACE VIEW scores AS SELECT 1
    CREATE MACRO x(a) AS a + 1
    CREATE SECRET (TYPE http)
    CREATE TYPE x AS ENUM ('a')
    CREATE SEQUENCE x
    CREATE SCHEMA x
    INSERT INTO source.runs BY NAME SELECT 'x' AS run_id
    UPDATE source.runs SET state = 'done'
    DELETE FROM source.runs
    TRUNCATE source.runs
    MERGE INTO source.runs USING source.runs r ON true WHEN MATCHED THEN DELETE
    DROP VIEW scores
    DROP TABLE source.runs
    ALTER TABLE source.runs ADD COLUMN x INTEGER
    ALTER VIEW scores RENAME TO x
    COMMENT ON VIEW scores IS 'x'
    BEGIN TRANSACTION
    COMMIT
    INSTALL httpfs
    LOAD httpfs
    LOAD '{inside}'
    UPDATE EXTENSIONS
    SET memory_limit = '99GB'
    SET VARIABLE x = 1
    RESET memory_limit
    RESET lock_configuration
    PRAGMA database_list
    PRAGMA enable_profiling
    PRAGMA memory_limit = '99GB'
    PRAGMA json_execute_serialized_sql('x')
    CALL pragma_version()
    CALL checkpoint()
    PREPARE x AS SELECT 1
    EXECUTE x
    DEALLOCATE x
    SELECT 1; SELECT 2
    SELECT 1; COPY (SELECT 1) TO '{inside}'
    SELECT 1;;; DROP VIEW scores
    SELECT '; /*'; COPY (SELECT 1) TO '{inside}' -- */
    /* SELECT 1 */ COPY (SELECT 1) TO '{inside}'
    cOpY/**/(SELECT 1)tO'{inside}'
    FROM query('COPY (SELECT 1) TO ''{inside}''')
    FROM "query"('COPY (SELECT 1) TO ''{inside}''')
    FROM query_table('scores')
    FROM query_table(['/etc/passwd'])
    FROM json_execute_serialized_sql(json_serialize_sql('WITH x AS (COPY (SELECT 1) TO ''{inside}'') FROM x'))
    FROM enable_profiling(format := 'json', save_location := '{inside}')
    FROM enable_logging(storage := 'file', storage_path := '{inside}')
    FROM create_external_resource('x')
    FROM force_checkpoint()
    PIVOT scores ON latent USING sum(score)
    SELECT write_log('x')
    SELECT nextval('x')
    SELECT setseed(0.5)
"""

READING = """
    FROM read_csv('/etc/passwd')
    FROM READ_CSV_AUTO('/etc/passwd')
    FROM read_parquet('{statistics}')
    FROM parquet_scan('{statistics}')
    SELECT s.* FROM (WITH "{statistics}" AS (SELECT 1) SELECT 1 AS x) a, "{statistics}" s
    WITH "{statistics}" AS MATERIALIZED (FROM "{statistics}") FROM "{statistics}"
    FROM read_text('/etc/passwd')
    FROM ReAd_TeXt('/etc/passwd')
    FROM "read_text"('/etc/passwd')
    FROM main.read_blob('/etc/passwd')
    FROM system.main.read_blob('/etc/passwd')
    FROM read_text('{secret}')
    FROM read_text('{root}/workspace.json')
    FROM read_text('~/.ssh/id_rsa')
    FROM read_text('{root}/artifacts/../../secret.csv')
    FROM read_text('{link}')
    FROM read_json('/etc/passwd')
    FROM read_json_objects('/etc/passwd')
    FROM read_duckdb('{inside}')
    FROM glob('/etc/*')
    FROM glob('~/*')
    FROM sniff_csv('/etc/passwd')
    FROM parquet_metadata('{statistics}')
    FROM parquet_schema('{statistics}')
    FROM parquet_kv_metadata('{statistics}')
    FROM sqlite_scan('{inside}', 'x')
    FROM postgres_scan('host=127.0.0.1', 'public', 'x')
    FROM iceberg_scan('{inside}')
    FROM 'http://127.0.0.1:9/x.parquet'
    FROM read_text('https://127.0.0.1:9/x')
    FROM 's3://bucket/x.parquet'
    FROM '/etc/passwd'
    FROM '{statistics}'
    FROM '~/x.parquet'
    FROM 'file.csv'
    FROM 'file:///etc/passwd'
    FROM "/etc/hosts.csv"
    FROM memory.main."/etc/hosts.csv"
    FROM frame
    FROM sql
    FROM arrow_scan(1, 2, 3)
    FROM pandas_scan(1)
    FROM python_map_function(1)
    FROM seq_scan('runs')
    SELECT (SELECT first(content) FROM read_text('/etc/passwd'))
    SELECT (FROM glob('/etc/*'))
    SELECT 1 LIMIT (SELECT count(*) FROM glob('/etc/*'))
    SELECT 1 ORDER BY (SELECT count(*) FROM glob('/etc/*'))
    SELECT 1 GROUP BY (SELECT count(*) FROM glob('/etc/*'))
    SELECT count(*) FROM scores HAVING EXISTS (FROM glob('/etc/*'))
    SELECT sum(1) OVER (ROWS (SELECT count(*) FROM glob('/etc/*')) PRECEDING) FROM scores
    SELECT rank() OVER w FROM scores WINDOW w AS (ORDER BY (SELECT count(*) FROM glob('/etc/*')))
    SELECT 1 FROM scores QUALIFY (SELECT count(*) FROM glob('/etc/*')) > 0
    SELECT [x FOR x IN (SELECT list(file) FROM glob('/etc/*'))]
    SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('/etc/*')))
    SELECT sum(1) FILTER (WHERE EXISTS (FROM glob('/etc/*'))) FROM scores
    SELECT {'a': (SELECT count(*) FROM glob('/etc/*'))}
    SELECT DISTINCT ON ((SELECT count(*) FROM glob('/etc/*'))) 1
    VALUES ((SELECT count(*) FROM glob('/etc/*')))
    FROM range((SELECT count(*) FROM glob('/etc/*')))
    FROM scores JOIN scores s ON EXISTS (FROM glob('/etc/*'))
    FROM scores, LATERAL (FROM glob('/etc/*'))
    FROM (PIVOT (FROM glob('/etc/*')) ON file IN ('a') USING count(*))
    FROM (UNPIVOT (FROM glob('/etc/*')) ON file)
    SELECT * REPLACE ((SELECT count(*) FROM glob('/etc/*')) AS score) FROM scores
    DESCRIBE FROM read_text('/etc/passwd')
    SUMMARIZE FROM read_text('/etc/passwd')
    FROM (DESCRIBE FROM glob('/etc/*'))
    FROM duckdb_secrets()
    FROM duckdb_settings()
    FROM duckdb_views()
    FROM duckdb_logs()
    FROM duckdb_temporary_files()
    FROM pragma_database_size()
    FROM which_secret('x', 'http')
    FROM duckdb_views
    FROM pg_settings
    FROM pg_catalog.pg_tables
    FROM information_schema.tables
    FROM sqlite_master
    FROM source.runs
    FROM main.sqlite_master
    WITH duckdb_views AS (FROM duckdb_views) FROM duckdb_views
    WITH RECURSIVE DuckDB_Views AS (FROM duckdb_views UNION ALL FROM duckdb_views) FROM duckdb_views
    SHOW secret_directory
    SHOW ALL TABLES
    SHOW DATABASES
    SHOW TABLES FROM source
    DESCRIBE source.runs
    FROM (SHOW temp_directory)
    SELECT getenv('HOME')
    SELECT "getenv"('HOME')
    SELECT current_setting('secret_directory')
    SELECT 'temp_directory'.current_setting()
    SELECT CURRENT_SETTING('allowed_directories')
    SELECT getvariable('x')
    SELECT current_query()
    SELECT json_serialize_plan('FROM read_csv(''/etc/passwd'')')
    SELECT sleep_ms(100000)
    SELECT pg_sleep(100)
"""

NONSENSE = """
    -- nothing
    ;
    .shell ls
    !ls
    SELEC 1
    SELECT nope FROM scores
    SELECT 1 +
    SELECT 'x'::INTEGER
    SELECT $1
    SELECT ?
    SELECT error('gotcha')
    SELECT 'x
"""


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


CRAFTED = [
    "",
    "\n",
    "\0",
    "SELECT 1\0; DROP VIEW scores",
    "SELECT '\ud800'",
    "\uff33\uff25\uff2c\uff25\uff23\uff34 1",
    "SELECT 1;\u00a0COPY (SELECT 1) TO '{inside}'",
]
DEEP = {
    "brackets": "SELECT " + "(" * 30_000 + "1" + ")" * 30_000,
    "minus": "SELECT " + "- " * 30_000 + "1",
    "sum": "SELECT " + "+".join(["1"] * 30_000),
    "calls": "SELECT " + "abs(" * 20_000 + "1" + ")" * 20_000,
    "lists": "SELECT " + "[" * 20_000 + "]" * 20_000,
    "queries": "FROM " + "(FROM " * 5_000 + "range(1)" + ")" * 5_000,
    "scalar queries": "SELECT " + "(SELECT " * 5_000 + "1" + ")" * 5_000,
    "case": "SELECT " + "CASE WHEN true THEN " * 10_000 + "1" + " END" * 10_000,
    "casts": "SELECT 1" + "::INTEGER" * 50_000,
    "unions": "SELECT 1" + " UNION ALL SELECT 1" * 20_000,
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all that may be attacked lies: one for all attacks, as none may change anything."""
    return tmp_path_factory.mktemp("ground")


@pytest.fixture(scope="module")
def workspace(ground: Path) -> Workspace:
    return Workspace.open(ground / "it's [1] * work")


@pytest.fixture(scope="module")
def prey(workspace: Workspace, ground: Path) -> Iterator[dict[str, Path]]:
    """What an attack may aim at: paths to put into its text, and a process that stands in a folder of its own."""
    made = commit_score(workspace, "ink", {"sae_a": random_sums(1)})
    secret = ground / "secret.csv"
    secret.write_text("a\n1\n")
    link = workspace.root / "artifacts" / "link"
    link.symlink_to(secret)
    (ground / "here").mkdir()
    (ground / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ground / "here")
        patch.setattr(tempfile, "tempdir", str(ground / "temporary"))
        yield {
            "root": workspace.root,
            "inside": workspace.root / "artifacts" / "written",
            "statistics": workspace.folder(made.id) / "of sae_a" / "statistics.parquet",
            "secret": secret,
            "link": link,
        }


@pytest.fixture(scope="module")
def connection(workspace: Workspace, prey: dict[str, Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(workspace) as found:
        yield found


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder in and below `folder`, with its size and time."""
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*") if p.name != "temporary"}


def aimed(sql: str, prey: dict[str, Path]) -> str:
    for name, path in prey.items():
        sql = sql.replace("{" + name + "}", str(path).replace("'", "''"))
    return sql


ALL = [*lines(WRITING), *lines(READING), *lines(NONSENSE), *CRAFTED]


def refusal(workspace: Workspace, connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """What `run_query` says of it, without a process for each: what the guard lets through is run after all."""
    try:
        only_select(connection, sql)
    except BadQuery as error:
        return str(error)
    except (duckdb.Error, UnicodeError) as error:
        return explained(str(error), "1GB", views(connection))
    with pytest.raises(BadQuery) as caught:
        run_query(workspace, sql, seconds=20)
    return str(caught.value)


@pytest.mark.parametrize("sql", ALL)
def test_it_is_refused_in_one_line(
    workspace: Workspace, connection: duckdb.DuckDBPyConnection, prey: dict[str, Path], ground: Path, sql: str
) -> None:
    before = state(ground)
    message = refusal(workspace, connection, aimed(sql, prey))
    assert message and "\n" not in message and "Traceback" not in message
    # Not by running into a limit, nor by the death of its process: by a rule.
    assert not any(words in message for words in ("took over", "more memory", "process was ended", "process failed"))
    assert state(ground) == before


@pytest.mark.parametrize("sql", ALL[::11])
def test_the_refusal_comes_through(
    workspace: Workspace, connection: duckdb.DuckDBPyConnection, prey: dict[str, Path], ground: Path, sql: str
) -> None:
    before = state(ground)
    with pytest.raises(BadQuery) as caught:
        run_query(workspace, aimed(sql, prey), seconds=20)
    assert str(caught.value) == refusal(workspace, connection, aimed(sql, prey))
    assert state(ground) == before


@pytest.mark.parametrize("sql", DEEP.values(), ids=DEEP)
def test_depth_is_refused_in_one_line(workspace: Workspace, sql: str) -> None:
    with pytest.raises(BadQuery) as caught:
        run_query(workspace, sql, seconds=3, memory="200MB")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range % 7 = b.range % 5",
        "SELECT * FROM range(100000000) a, range(100000000) b WHERE a.range + b.range < 0",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
        "SELECT list_reduce(range(20000000), lambda a, b: a + b)",
        "SELECT count(DISTINCT hash(a.range, b.range)) FROM range(1000000) a, range(1000000) b",
    ],
)
def test_time_is_limited(workspace: Workspace, prey: dict[str, Path], ground: Path, sql: str) -> None:
    before = state(ground)
    start = time.monotonic()
    with pytest.raises(BadQuery, match=r"took over 0\.3 seconds: ask for less, or raise the limit"):
        run_query(workspace, sql, seconds=0.3)
    assert time.monotonic() - start < 20
    assert state(ground) == before


LEVEL = (
    "SELECT * FROM range(1000000000) ORDER BY hash(range)",
    "SELECT histogram(range) FROM range(1000000000)",
)
"""Those that after a second have nearly all the memory they ever take, and work on."""
BOMBS = [
    "SELECT list(range) FROM range(30000000)",
    "SELECT string_agg(range::VARCHAR, ',') FROM range(1000000000)",
    "SELECT range(10000000000)",
    "SELECT list_sum(range(2000000000))",
    "SELECT repeat('x', 4000000000)",
    "SELECT repeat(repeat('x', 1000000), 4000)",
    "SELECT list_resize([1], 4000000000)",
    "SELECT lpad('x', 2000000000, 'y') FROM range(100)",
    "SELECT repeat('x', 100000000) FROM range(1000)",
    "WITH RECURSIVE t(n) AS (SELECT 'x' UNION ALL SELECT n || n FROM t) SELECT max(length(n)) FROM t",
    *LEVEL,
]
_MEASURED = """
import json, re, resource, sys
from storage.errors import BadQuery
from storage.catalog.query import run_query
try:
    run_query(sys.argv[1], sys.argv[2], seconds=float(sys.argv[3]), memory="50MB")
    said = None
except BadQuery as error:
    said = str(error)
# The largest size since this program began; getrusage would count the process it was forked from.
own = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps([said, own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


@pytest.mark.parametrize(
    ("sql", "seconds"),
    [
        *((sql, "2" if sql in LEVEL else "5") for sql in BOMBS),
        *(pytest.param(sql, "20", marks=pytest.mark.full) for sql in BOMBS),
    ],
)
def test_memory_is_limited(workspace: Workspace, prey: dict[str, Path], ground: Path, sql: str, seconds: str) -> None:
    before = state(ground)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(workspace.root), sql, seconds],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(ground / "temporary"), "PYTHONPATH": str(Path(query.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    said, own, child = json.loads(done.stdout)
    assert said and "\n" not in said
    # In kB. What the query's process may have: 1 GiB, twice its memory, and what it had before it began.
    assert own < 200_000 and child < 1_700_000
    assert state(ground) == before


def test_results_are_limited(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RESULT_BYTES", 1_000_000)
    assert run_query(workspace, "FROM range(100000)").num_rows == 100_000
    for sql in ("FROM range(1000000000000)", "SELECT NULL FROM range(1000000000000)", "SELECT repeat('x', 2000000)"):
        with pytest.raises(BadQuery, match="larger than 1000000 bytes: add a LIMIT, or ask for less"):
            run_query(workspace, sql)


def test_text_is_limited(workspace: Workspace, tmp_path: Path) -> None:
    table = run_query(workspace, "SELECT true FROM range(10000001)")
    for fmt in ("table", "csv", "json"):
        with pytest.raises(BadQuery, match="too many for text: add a LIMIT, or use --format parquet --out FILE"):
            format_table(table, fmt)  # type: ignore[arg-type]
    assert "10000001 rows" in format_table(table, "parquet", tmp_path / "answer.parquet")


def test_a_terminal_is_not_told_to_do_things(workspace: Workspace) -> None:
    text = format_table(run_query(workspace, "SELECT chr(27) || '[2J' || chr(7) || chr(13) || 'x' AS t"), "table")
    assert text.splitlines()[2] == " [2J  x"


def test_temporary_files_are_limited(workspace: Workspace) -> None:
    with connect(workspace) as connection:
        [(most, where)] = connection.execute(
            "SELECT current_setting('max_temp_directory_size'), current_setting('temp_directory')"
        ).fetchall()
    assert most == "9.3 GiB" and where.startswith(tempfile.gettempdir())


def test_the_query_knows_nothing_of_the_environment(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert "hush" not in json.dumps(query._environment(Path("x")))


def test_a_process_that_dies_is_one_line(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "READY", b"\n" * (1 << 20))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadQuery, match="the query's process failed: exit code 1"):
        run_query(workspace, "SELECT 1")


def test_every_function_that_is_not_one_of_its_arguments_is_known() -> None:
    """A new DuckDB may bring new ones: look at each, then refuse it in `guard` or name it here."""
    harmless = {
        *("current_catalog", "current_database", "current_schema", "current_schemas", "in_search_path"),
        *("current_date", "get_current_time", "get_current_timestamp", "now", "today", "transaction_timestamp"),
        *("current_connection_id", "current_query_id", "current_transaction_id", "txid_current"),
        *("error", "random", "gen_random_uuid", "uuid", "uuidv4", "uuidv7", "stats", "vector_type"),
    }
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'")
        assert {name for (name,) in rows.fetchall()} - _REFUSED_FUNCTIONS - harmless == set()
