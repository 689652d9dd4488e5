"""`saeuron sql --shell`: at a real (pseudo) terminal, and from a pipe."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.sql_shell import complete, history_file, split
from storage.columns import COLUMNS
from storage.identity import artifact_id
from storage.statistics import write_statistics
from storage.workspace import Workspace
from tests.storage.conftest import random_sums

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace.open(tmp_path_factory.mktemp("shell") / "work")
    for seed, concept in enumerate(("ink", "oil")):
        about = {"domain": "style", "concept": concept, "protocol": "p", "model_id": "m"}
        name = artifact_id("score", 1, about)
        write_statistics(workspace.folder(name) / "sae", random_sums(seed))
        saes = [{"sae_id": "sae_a", "hookpoint": "unet.mid_block", "folder": "sae", "n_images": 3}]
        workspace.commit(name, config={"half": "conditional"}, inputs={}, summary=about | {"saes": saes}, seconds=1.0)
    return workspace


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def piped(workspace: Workspace, text: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "flows.cli", "sql", "--shell", "-w", str(workspace.root), *options]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True)


class TestPipe:
    def test_it_answers_without_a_prompt(self, workspace: Workspace, state: Path) -> None:
        done = piped(
            workspace, b"-- a comment;\nselect concept,\n  count(*) as n\nfrom scores group by all;", "--format", "csv"
        )
        assert done.returncode == 0
        assert sorted(csv.reader(io.StringIO(done.stdout.decode()))) == [["concept", "n"], ["ink", "14"], ["oil", "14"]]
        assert re.fullmatch(rb"\d+\.\d\d s\n", done.stderr)

    def test_the_last_statement_needs_no_semicolon(self, workspace: Workspace) -> None:
        done = piped(workspace, b"select 1 as a;\nselect 2 as b\n\n/* the end; */ -- really")
        assert done.returncode == 0
        assert done.stdout.decode().split("\n") == ["a", "-", "1", "(1 rows)", "b", "-", "2", "(1 rows)", ""]

    def test_an_error_is_one_line_and_the_rest_is_answered(self, workspace: Workspace) -> None:
        done = piped(
            workspace, b"select nope from scores;drop view scores; select 3 as c;\n\\d runs\n\\q\nselect 4 as d;"
        )
        assert done.returncode == 1
        errors = [line for line in done.stderr.decode().splitlines() if line.startswith("saeuron: ")]
        assert len(errors) == 2 and "nope" in errors[0] and "DROP" in errors[1]
        assert b"3\n(1 rows)" in done.stdout and b"when it began" in done.stdout and b"d\n-\n4" not in done.stdout

    @pytest.mark.parametrize("text", [b"select 'never closed;\n", b"\xff\xfe\x00;", b"select 1 /* "])
    def test_nonsense_is_one_line(self, workspace: Workspace, text: bytes) -> None:
        done = piped(workspace, text)
        assert done.returncode == 1 and not done.stdout
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(b"saeuron: ")

    def test_nothing_is_nothing(self, workspace: Workspace) -> None:
        done = piped(workspace, b"\n;;\n -- only a comment\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "neither QUERY nor --shell: expected one of them"),
        (["select 1", "--shell"], "both QUERY and --shell: expected one of them"),
        (["--shell", "--out", "x.csv"], "expected no --out"),
        (["--shell", "--format", "parquet"], "--format table, csv or json"),
    ],
)
def test_one_of_query_and_shell(workspace: Workspace, words: list[str], said: str) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", *words, "-w", str(workspace.root)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_a_workspace_that_is_not_there(tmp_path: Path) -> None:
    done = piped(Workspace(tmp_path / "none"), b"select 1;")
    assert done.returncode == 2 and b"is not a workspace" in done.stderr


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("select 1;\n", ["select 1"], ""),
        ("a; b;c\n", ["a", "b"], "c\n"),
        ("select ';', \"x;y\", $$;$$, $t$ ; $$ ; $t$;\n", ["select ';', \"x;y\", $$;$$, $t$ ; $$ ; $t$"], ""),
        ("select 'it''s;' -- ;\n, 2 /* ; \n ; */;\n", ["select 'it''s;' -- ;\n, 2 /* ; \n ; */"], ""),
        ("select 'open;\n", [], "select 'open;\n"),
        ("/* open ;\n", [], "/* open ;\n"),
        ("-- note;\n\n", [], ""),
        (" ; ;/* x */;\n", [], ""),
        ("\n", [], ""),
    ],
)
def test_split(text: str, statements: list[str], rest: str) -> None:
    found, left = split(text)
    assert found == statements and left.strip() == rest.strip()


def test_complete() -> None:
    assert complete("top_f", "select * from top_f") == ["top_features"]
    assert complete("SC", "select SC") == ["score", "score_id", "scores"]
    assert complete("sc", "\\d sc") == ["scores"]
    assert complete("zzz", "zzz") == []
    assert complete("", "\\d ") == sorted(COLUMNS)


def test_where_the_history_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for state, folder in (
        (str(tmp_path / "s"), tmp_path / "s"),
        ("", tmp_path / ".local/state"),
        ("x", tmp_path / ".local/state"),
    ):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert history_file() == folder / "saeuron" / "sql_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert history_file() == tmp_path / ".local/state/saeuron/sql_history"
