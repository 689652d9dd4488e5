import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.catalog import guard, query
from storage.catalog.columns import COLUMNS
from storage.catalog.connection import connect
from storage.catalog.query import format_table, run_query
from storage.catalog.words import explained
from storage.errors import BadQuery
from storage.workspace import Workspace
from tests.storage.conftest import Score, random_sums


@pytest.mark.parametrize(
    "sql",
    [
        "FROM saes",
        "VALUES (1)",
        "DESCRIBE scores",
        "SELECT 1; ",
        "WITH a AS (SELECT 1 AS x), b AS MATERIALIZED (FROM a) SELECT * FROM a UNION ALL FROM b",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) FROM t",
        "SELECT (SELECT max(x) FROM range(3) t(x)), unnest([1, 2])",
        "FROM (PIVOT (SELECT 1 AS a, 2 AS b) ON a IN (1) USING sum(b))",
        "SELECT 'COPY_QUERY_NODE' AS type, {'type': 'COPY_NODE', 'function_name': 'read_csv'} AS x",
        "SELECT concept, rank() OVER (ORDER BY score) FROM scores QUALIFY rank() OVER (ORDER BY score) < 3",
    ],
)
def test_the_guard_lets_selects_pass(workspace: Workspace, sql: str) -> None:
    file = io.BytesIO()
    with connect(workspace.root) as connection:
        guard.answer_to(connection, sql, file, 10**6)
    with pa.ipc.open_stream(file.getvalue()) as reader:
        assert isinstance(reader.read_all(), pa.Table)


ATTACKS = [
    "COPY (SELECT 1) TO '{inside}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}'",
    "EXPLAIN SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{inside}') SELECT 1",
    "WITH y AS (SELECT 1), x AS MATERIALIZED (COPY (SELECT 1) TO '{inside}') FROM x",
    "SELECT (WITH x AS (COPY (SELECT 1) TO '{inside}') FROM x)",
    "WITH x AS (DELETE FROM source.runs RETURNING *) FROM x",
    "FROM query('COPY (SELECT 1) TO ''{inside}''')",
    "FROM json_execute_serialized_sql(json_serialize_sql('WITH x AS (COPY (SELECT 1) TO ''{inside}'') FROM x'))",
    "FROM enable_profiling(format := 'json', save_location := '{inside}')",
    "FROM enable_logging(storage := 'file', storage_path := '{inside}')",
    "ATTACH '{inside}' AS x",
    "CREATE TABLE x AS SELECT 1",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM READ_TEXT('/etc/passwd')",
    "SELECT * FROM main.read_blob('/etc/passwd')",
    "SELECT (SELECT first(content) FROM read_text('/etc/passwd'))",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM parquet_metadata('{inside}')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'file.csv'",
    'SELECT * FROM "/etc/hosts.csv"',
    "SELECT * FROM sql",
    "FROM arrow_scan(1, 2, 3)",
    "PRAGMA database_list",
    "SET memory_limit = '99GB'",
    "RESET lock_configuration",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{inside}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CALL pragma_version()",
    "SELECT getenv('HOME')",
    "SELECT * FROM duckdb_secrets()",
    "PREPARE x AS SELECT 1",
    "USE source",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT nope FROM scores",
    "SELECT 1 +",
    "SELECT 'x'::INTEGER",
]


def attack(sql: str, inside: Path) -> str:
    return sql.replace("{inside}", str(inside).replace("'", "''"))


@pytest.mark.parametrize("sql", ATTACKS)
def test_all_else_is_refused_in_one_line(workspace: Workspace, sql: str) -> None:
    """As the query's process does it, without the time that a process takes to start."""
    (workspace.root / "artifacts").mkdir()
    before = sorted(workspace.root.rglob("*"))
    with connect(workspace.root) as connection:
        there = guard.views(connection)
        with pytest.raises((BadQuery, duckdb.Error)) as caught:
            guard.answer_to(connection, attack(sql, workspace.root / "artifacts" / "written"), io.BytesIO(), 10**6)
    said = guard.reason(caught.value, "1GB", there, sql)
    assert said and "\n" not in said
    assert sorted(workspace.root.rglob("*")) == before


@pytest.mark.parametrize("sql", ATTACKS[::8])
def test_so_does_the_process_of_a_query(workspace: Workspace, sql: str) -> None:
    (workspace.root / "artifacts").mkdir()
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(BadQuery) as caught:
        run_query(workspace, attack(sql, workspace.root / "artifacts" / "written"), seconds=5)
    assert "\n" not in str(caught.value)
    assert sorted(workspace.root.rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range % 7 = b.range % 5",
        "SELECT * FROM range(100000000) a, range(100000000) b WHERE a.range + b.range < 0",
    ],
)
def test_time_is_limited(workspace: Workspace, sql: str) -> None:
    start = time.monotonic()
    with pytest.raises(BadQuery, match=r"took over 0\.3 seconds"):
        run_query(workspace, sql, seconds=0.3)
    assert time.monotonic() - start < 5


def test_memory_is_limited(workspace: Workspace) -> None:
    with pytest.raises(BadQuery, match="more memory than 20MB"):
        run_query(workspace, "SELECT list(range) FROM range(30000000)", memory="20MB")


def test_the_result_is_limited(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RESULT_BYTES", 1_000_000)
    assert run_query(workspace, "FROM range(100000)").num_rows == 100_000
    with pytest.raises(BadQuery, match="add a LIMIT"):
        run_query(workspace, "FROM range(1000000000000)")


def test_an_error_in_the_middle_of_the_rows(workspace: Workspace) -> None:
    sql = "SELECT CASE WHEN range = 900000 THEN 'x' ELSE '1' END::INTEGER FROM range(1000000)"
    with pytest.raises(BadQuery, match="Conversion Error") as caught:
        run_query(workspace, sql)
    assert "\n" not in str(caught.value)


def test_a_misspelt_view(workspace: Workspace) -> None:
    with pytest.raises(BadQuery, match="no view 'top_latent': did you mean top_latents"):
        run_query(workspace, "SELECT * FROM top_latent")
    with pytest.raises(BadQuery, match="no view 'zzz'; SHOW TABLES lists all"):
        run_query(workspace, "SELECT * FROM zzz")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "SELECT conccept FROM removals",
            "there is no column 'conccept': did you mean concept? DESCRIBE removals lists",
        ),
        (
            "SELECT r.methd FROM removals r",
            "there is no column 'methd': did you mean method? DESCRIBE removals lists all",
        ),
        ("SELECT ua FROM metrics JOIN removals USING (domian)", "there is no column 'domian': did you mean domain?"),
        ("SELECT * EXCLUDE (valu) FROM metrics", "there is no column 'valu': did you mean value?"),
        ("SELECT value FROM metrics WHERE metric = UA", "text is written with single quotes, 'UA'"),
        ("WITH x AS (SELECT 1 AS alpha) SELECT alpa FROM x", "there is no column 'alpa': did you mean alpha?"),
        ("SELECT metrics.value FROM removals", "'metrics', which is not in its FROM; there is removals"),
        ("SELECT roun(ua) FROM removals", "there is no function 'roun': did you mean round?"),
        ("SELECT * FROM removal", "there is no view 'removal': did you mean removals"),
        ("PIVOT metrics ON metric USING avg(value)", "PIVOT needs its values: name them by IN, as in PIVOT metrics ON"),
        ("FROM (PIVOT metrics ON metric USING avg(value))", "PIVOT needs its values: name them by IN"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(workspace: Workspace, sql: str, said: str) -> None:
    with connect(workspace.root) as connection:
        there = guard.views(connection)
        with pytest.raises((BadQuery, duckdb.Error)) as caught:
            guard.answer_to(connection, sql, io.BytesIO(), 10**6)
    line = guard.reason(caught.value, "1GB", there, sql)
    assert said in line and "\n" not in line and len(line) < 200


def test_no_advice_on_settings_that_are_locked() -> None:
    """As DuckDB says it, where memory or the room for what does not fit in it ends."""
    for began in (
        "Out of Memory Error: x",
        "IO Error: set by the 'max_temp_directory_size' setting",
        "x: SET memory_limit='...GB'",
    ):
        said = explained(f"{began}\n\nPossible solutions:\n* Reducing the number of threads (SET threads=X)", "1GB", {})
        assert said.startswith("the query needs more memory than 1GB: select fewer columns or rows")
        assert "limit" not in said and "SET" not in said


def test_scores_by_sql(workspace: Workspace, score: Score) -> None:
    for seed, concept in enumerate(("ink", "oil")):
        score(concept, {"sae_a": random_sums(seed)})
    found = run_query(workspace, "SELECT concept, count(*) AS n FROM scores GROUP BY ALL ORDER BY ALL")
    assert found.to_pylist() == [{"concept": "ink", "n": 14}, {"concept": "oil", "n": 14}]


SQL = """
    SELECT 1 AS n, 0.1::DOUBLE AS x, 'long ' || repeat('x', 300) AS text, MAP {'a': 'b'} AS m, NULL AS nothing,
        'nan'::DOUBLE AS nan, 170141183460469231731687303715884105727::HUGEINT AS huge, 'a"b,c' AS quoted,
        TIMESTAMP '2025-01-02 03:04:05' AS moment
"""


def test_a_table_is_printed_in_columns_or_in_records(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = run_query(workspace, "SELECT range AS n, repeat('é', range) AS t FROM range(9, 11)")
    assert format_table(table, "table").splitlines() == [
        " n  t",
        "--  ----------",
        " 9  ééééééééé",
        "10  éééééééééé",
        "(2 rows)",
    ]
    table = run_query(workspace, "SELECT range AS n, repeat('é', 30) AS t FROM range(9, 11)")
    assert format_table(table, "table").splitlines() == [
        "-[ 1 ]",
        "n | 9",
        f"t | {'é' * 26}",
        "  | éééé",
        "-[ 2 ]",
        "n | 10",
        f"t | {'é' * 26}",
        "  | éééé",
        "(2 rows)",
    ]
    lines = format_table(run_query(workspace, "FROM metrics"), "table").splitlines()
    assert lines[0].startswith("columns: ") and lines[-1] == "(0 rows)"


def test_no_view_has_a_name_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for view, columns in COLUMNS.items():
        shown = format_table(pa.table({column.name: pa.nulls(2, pa.int32()) for column in columns}), "table")
        assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown, view
        assert all(column.name in shown for column in columns), view


def test_two_columns_of_one_name_lose_no_value(workspace: Workspace, tmp_path: Path) -> None:
    table = run_query(workspace, "SELECT 1 AS n, 2 AS n")
    assert format_table(table, "table").splitlines() == ["n  n", "-  -", "1  2", "(1 row)"]
    for fmt in ("csv", "json", "parquet"):
        said = f"two columns are named 'n': for {fmt} each needs its own name, give one with AS"
        with pytest.raises(BadQuery, match=f"^{said}$"):
            format_table(table, fmt, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_json_keeps_types_and_long_values(workspace: Workspace) -> None:
    (row,) = json.loads(format_table(run_query(workspace, SQL), "json"))
    assert row["m"] == {"a": "b"} and row["nothing"] is None and row["nan"] is None and row["x"] == 0.1
    assert row["huge"] == 2**127 - 1 and len(row["text"]) == 305 and row["moment"] == "2025-01-02 03:04:05"


def test_csv_is_quoted(workspace: Workspace) -> None:
    lines = format_table(
        run_query(workspace, "SELECT 1 AS n, NULL AS z, 'a\"b,c' AS q, [1, 2] AS l"), "csv"
    ).splitlines()
    assert lines == ["n,z,q,l", '1,,"a""b,c","[1, 2]"']


def test_a_result_is_written_to_a_file(workspace: Workspace, tmp_path: Path) -> None:
    table = run_query(workspace, "SELECT * FROM range(3)")
    assert format_table(table, "parquet", tmp_path / "t.parquet") == f"3 rows written to {tmp_path / 't.parquet'}"
    assert pq.read_table(tmp_path / "t.parquet").equals(table)
    format_table(table, "csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "range\n0\n1\n2\n"
    with pytest.raises(BadQuery, match="--out"):
        format_table(table, "parquet")
    with pytest.raises(BadQuery, match="expected table, csv, json or parquet"):
        format_table(table, "xml")  # type: ignore[arg-type]


def test_ctrl_c_ends_the_query_and_its_process(workspace: Workspace) -> None:
    sql = "select count(*) from range(100000000) a, range(100000000) b where a.range % 7 = b.range % 5"
    command = [sys.executable, "-m", "flows.cli", "sql", sql, "--seconds", "120", "-w", str(workspace.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as asking:
        children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
        end = time.monotonic() + 60
        while not (child := children.read_text().split()) and time.monotonic() < end:
            time.sleep(0.05)
        asking.send_signal(signal.SIGINT)
        _, said = asking.communicate(timeout=30)
    assert asking.returncode == 130 and said.startswith("\nsaeuron: interrupted")
    assert child and not Path(f"/proc/{child[0]}").exists()
