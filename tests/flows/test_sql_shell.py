"""`saeuron sql --shell`: at a real (pseudo) terminal, and from a pipe."""

import csv
import fcntl
import io
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.sql_shell import complete, history_file, split
from storage.catalog.columns import COLUMNS
from storage.identity import artifact_id
from storage.statistics.sums import write_statistics
from storage.workspace import Workspace
from tests.storage.conftest import random_sums

ROOT = Path(__file__).parents[2]
SHELL = ("-m", "flows.cli", "sql", "--shell", "--seconds", "120", "-w")
UNHEARD = """
import _thread, builtins, sys, threading
from flows.sql_shell import Shell
from storage import Workspace

def once(prompt, ask=input):
    builtins.input = ask
    threading.Timer(0.5, _thread.interrupt_main).start()
    return ask(prompt)

builtins.input = once
Shell(Workspace.open(sys.argv[1])).sit()
"""
"""A shell to which a Ctrl-C comes that does not interrupt the waiting for a key."""


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


class Terminal:
    """A terminal with `saeuron sql --shell` in it; what it shows collects in `shown`."""

    def __init__(self, workspace: Workspace, state: Path, command: tuple[str, ...] = SHELL) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *command, str(workspace.root)],
            cwd=ROOT,
            env={
                **os.environ,
                "XDG_STATE_HOME": str(state),
                "TERM": "dumb",
                "INPUTRC": "/dev/null",
                "LC_ALL": "C.UTF-8",
            },
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.shown = ""

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait until `text` is shown; returns what came before it, and forgets both."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come within {seconds} s; shown was {self.shown!r}")
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # Linux's word for a terminal that was left
                piece = b""
            if not piece:
                raise AssertionError(f"{text!r} did not come; shown was {self.shown!r}")
            self.shown += piece.decode(errors="replace").replace("\r", "")
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def left(self) -> int:
        """Wait for the end; the exit code."""
        while True:
            try:
                if not os.read(self.master, 65536):
                    break
            except OSError:
                break
        return self.process.wait(60)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@contextmanager
def opened(workspace: Workspace, state: Path) -> Iterator[Terminal]:
    terminal = Terminal(workspace, state)
    try:
        terminal.expect("saeuron> ")
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)


@pytest.fixture(scope="module")
def shared(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    with opened(workspace, tmp_path_factory.mktemp("state")) as terminal:
        yield terminal


@pytest.fixture
def terminal(shared: Terminal) -> Terminal:
    """One for all tests that leave it at its prompt, for a start takes seconds; nothing is left to be read."""
    shared.type("\\?\n")
    shared.expect("or stops the query that runs.\nsaeuron> ")
    shared.shown = ""
    return shared


@pytest.fixture
def fresh(workspace: Workspace, state: Path) -> Iterator[Terminal]:
    with opened(workspace, state) as terminal:
        yield terminal


class TestTerminal:
    def test_it_answers_with_the_time_and_goes_on(self, terminal: Terminal) -> None:
        terminal.type("select concept, count(*) as n from scores group by all order by all;\n")
        shown = terminal.expect("saeuron> ")
        assert "concept   n" in shown and "ink      14" in shown and "(2 rows)" in shown
        assert re.search(r"^\d+\.\d\d s$", shown, re.M)
        terminal.type("select 41 + 1 as answer;\n")
        assert "42" in terminal.expect("saeuron> ")

    def test_a_statement_may_take_lines(self, terminal: Terminal) -> None:
        terminal.type("select ';' as a, -- a comment; with one\n")
        assert "(1 rows)" not in terminal.expect("      -> ")
        terminal.type("2 as b\n")
        terminal.expect("      -> ")
        terminal.type("; select 'third' as c;\n")
        shown = terminal.expect("saeuron> ")
        assert shown.count("(1 rows)") == 2 and "third" in shown

    def test_an_error_is_one_line_and_the_prompt_goes_on(self, terminal: Terminal) -> None:
        for typed, said in (
            ("select * from score;", "there is no view 'score': did you mean scores?"),
            ("drop view scores;", "the query is DROP: expected SELECT"),
            ("selec 1;", "syntax error"),
            ("\\d score", "there is no view 'score': the views are prompts, "),
            ("\\x", "there is no command '\\\\x': expected \\d, \\d VIEW, \\? or \\q"),
        ):
            terminal.type(f"{typed}\n")
            shown = terminal.expect("saeuron> ")
            (line,) = [line for line in shown.splitlines() if line.startswith("saeuron: ")]
            assert said in line and "Traceback" not in shown

    def test_backslash_d(self, terminal: Terminal) -> None:
        terminal.type("\\d\n")
        shown = terminal.expect("saeuron> ")
        assert all(re.search(rf"^{view} +{columns[0].name}, ", shown, re.M) for view, columns in COLUMNS.items())
        terminal.type("\\d Scores;\n")
        shown = terminal.expect("saeuron> ")
        for column in COLUMNS["scores"]:
            fields = (column.name, column.type, column.unit or "-", column.meaning)
            assert re.search("^" + " +".join(map(re.escape, fields)) + "$", shown, re.M), column.name

    def test_tab_completes(self, terminal: Terminal) -> None:
        terminal.type("select count(*) as n from top_f\t where protoc\t is not null;\n")
        shown = terminal.expect("saeuron> ")
        assert re.search("from top_features where protocol is not null", shown) and "(1 rows)" in shown

    def test_ctrl_c_drops_what_is_typed(self, terminal: Terminal) -> None:
        terminal.type("select nonsense\n")
        terminal.expect("      -> ")
        terminal.type("and more")
        # Ctrl-C is for a prompt that has read this; one that comes up meanwhile would be another matter.
        terminal.expect("and more")
        terminal.type("\x03")
        terminal.expect("saeuron> ")
        terminal.type("select 7 as seven;\n")
        shown = terminal.expect("saeuron> ")
        assert "seven" in shown and "saeuron: " not in shown

    def test_ctrl_c_stops_the_query(self, terminal: Terminal) -> None:
        terminal.type("select count(*) from range(100000000) a, range(100000000) b where a.range % 7 = b.range % 5;\n")
        terminal.expect(";\n")
        children = Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children")
        end = time.monotonic() + 60
        while not (child := children.read_text().split()) and time.monotonic() < end:
            time.sleep(0.05)
        assert child
        start = time.monotonic()
        terminal.type("\x03")
        assert "cancelled" in terminal.expect("saeuron> ", 30)
        assert time.monotonic() - start < 30 and not Path(f"/proc/{child[0]}").exists()
        terminal.type("select 8 as eight;\n")
        assert "eight" in terminal.expect("saeuron> ")

    def test_a_ctrl_c_that_interrupts_no_waiting_is_heard(self, workspace: Workspace, state: Path) -> None:
        terminal = Terminal(workspace, state, ("-c", UNHEARD))
        terminal.expect("saeuron> ")
        assert "cancelled" in terminal.expect("saeuron> ", 30)
        terminal.type("\\q\n")
        assert terminal.left() == 0

    @pytest.mark.parametrize("last", ["\\q\n", "\x04", "select 1\n\x04"])
    def test_it_leaves(self, fresh: Terminal, last: str) -> None:
        fresh.type(last)
        assert fresh.left() == 0

    def test_the_history_is_kept_for_its_owner_alone(self, fresh: Terminal, workspace: Workspace, state: Path) -> None:
        fresh.type("select 'remember me' as x;\n")
        fresh.expect("saeuron> ")
        fresh.type("\\q\n")
        assert fresh.left() == 0
        path = state / "saeuron" / "sql_history"
        assert "select 'remember me' as x;" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        again = Terminal(workspace, state)
        again.expect("saeuron> ")
        again.type("\x1b[A\x1b[A\n")
        assert "(1 rows)" in again.expect("saeuron> ")
        again.type("\\q\n")
        assert again.left() == 0

    def test_it_does_without_a_history(self, workspace: Workspace, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        terminal = Terminal(workspace, tmp_path / "file" / "below")
        terminal.expect("saeuron> ")
        terminal.type("\\q\n")
        assert terminal.left() == 0

    def test_when_told_to_end_it_keeps_the_history(self, fresh: Terminal, state: Path) -> None:
        fresh.type("select 'last words' as x;\n")
        fresh.expect("saeuron> ")
        fresh.process.send_signal(signal.SIGTERM)
        assert fresh.left() == 143
        assert "last words" in (state / "saeuron" / "sql_history").read_text()


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
