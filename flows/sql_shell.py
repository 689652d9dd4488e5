"""The prompt of `saeuron sql --shell`: statements that end with a semicolon, and a few commands with a backslash.

Where standard input is no terminal it reads the same lines without a prompt: `saeuron sql --shell < queries.sql`.
"""

import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import typer

from flows.commands.options import say
from flows.summary import text_table
from storage import Workspace
from storage.catalog.columns import COLUMNS
from storage.errors import BadQuery, StorageError

HELP = r"""\d        the views
\d VIEW   the columns of a view: type, unit, meaning
\q        leave, as Ctrl-D does
A statement ends with ; and may take several lines. Ctrl-C drops what is typed, or stops the query that runs."""
_HISTORY_LINES = 1000
# What may hold a semicolon that ends nothing; what is not closed yet reaches to the end of the text.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(\w*)\$.*?(?:\$\1\$|\Z)""", re.S
)
_COMMENT = re.compile(r"--[^\n]*\n|/\*.*?\*/", re.S)


def split(text: str) -> tuple[list[str], str]:
    """The statements that are complete, without their semicolons, and what follows the last one.

    `text` ends with a newline. What holds nothing but comments is no statement, and nothing to go on from.
    """
    masked = _QUOTED.sub(lambda found: " " * len(found[0]), text)
    ends = [i for i, letter in enumerate(masked) if letter == ";"]
    starts = [0, *(i + 1 for i in ends)]
    *whole, rest = (text[start:end] for start, end in zip(starts, [*ends, None], strict=True))
    return [part.strip() for part in whole if not _blank(part)], "" if _blank(rest) else rest


def _blank(text: str) -> bool:
    return not _COMMENT.sub("", text).strip()


class Shell:
    """One sitting. Each statement sees what was committed when it was asked."""

    def __init__(
        self, workspace: Workspace, format: Literal["table", "csv", "json", "parquet"] = "table", seconds: float = 60.0
    ) -> None:
        self.workspace, self.format, self.seconds = workspace, format, seconds
        self.typed = ""
        """What was typed since the last statement."""
        self.failed = 0
        """How many statements and commands ended in an error."""

    def sit(self) -> bool:
        r"""Read and answer until the input ends, or \q. False if an error came and nobody sat there to see it."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            while (line := sys.stdin.readline()) and line.strip() != "\\q":
                self.take(line)
            if self.typed:
                self._do(partial(self._answer, self.typed.strip()))
            return not self.failed
        say(f"SQL over {self.workspace.address}; \\d lists the views, \\? says more, \\q leaves")
        with _history(), _interruptible():
            while True:
                try:
                    line = input("      -> " if self.typed else "saeuron> ")
                    if line.strip() == "\\q" and not self.typed:
                        break
                    self.take(line)
                except EOFError:
                    say()
                    break
                except KeyboardInterrupt:
                    self.typed = ""
                    say("\ncancelled")
        return True

    def take(self, line: str) -> None:
        """One line of input: a command, or a part of a statement. An error is one line on standard error."""
        if line.lstrip().startswith("\\") and not self.typed:
            self._do(lambda: say(_command(line.split())))
            return
        statements, self.typed = split(f"{self.typed}{line.rstrip()}\n")
        for statement in statements:
            self._do(partial(self._answer, statement))

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BrokenPipeError:
            raise  # nobody listens any more
        except (StorageError, OSError) as error:
            self.failed += 1
            typer.echo(f"saeuron: {' '.join(str(error).split())}", err=True)

    def _answer(self, statement: str) -> None:
        from storage.catalog.query import format_table, run_query

        start = time.monotonic()
        table = run_query(self.workspace, statement, seconds=self.seconds)
        took = time.monotonic() - start
        say(format_table(table, self.format))
        # Beside the result, so that what is piped on is the result alone.
        typer.echo(f"{took:.2f} s", err=True)


def _command(words: list[str]) -> str:
    match words:
        case ["\\d"]:
            return text_table(
                ["view", "columns"],
                [{"view": v, "columns": ", ".join(c.name for c in cs)} for v, cs in COLUMNS.items()],
                wrapped=["columns"],
            )
        case ["\\d", name] if (view := name.rstrip(";").lower()) in COLUMNS:
            rows = [_described(*column) for column in COLUMNS[view]]
            return text_table(["column", "type", "unit", "meaning"], rows, wrapped=["type", "unit", "meaning"])
        case ["\\d", name]:
            raise BadQuery(f"there is no view {name!r}: the views are {', '.join(COLUMNS)}")
        case ["\\?" | "\\h" | "\\help"]:
            return HELP
    raise BadQuery(f"there is no command {' '.join(words)!r}: expected \\d, \\d VIEW, \\? or \\q")


def _described(name: str, type: str, unit: str, meaning: str) -> dict[str, str]:
    return {"column": name, "type": type, "unit": unit or "-", "meaning": meaning}


def complete(text: str, line: str) -> list[str]:
    r"""The names that `text`, the end of `line`, may become: views and columns; after \d the views alone."""
    names = {*COLUMNS}
    if not line.lstrip().startswith("\\d"):
        names |= {column.name for columns in COLUMNS.values() for column in columns}
    return sorted(name for name in names if name.startswith(text.lower()))


def history_file() -> Path:
    """Where the lines of earlier sittings are kept, by the XDG rules."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else Path("~/.local/state").expanduser()
    return home / "saeuron" / "sql_history"


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, which stops one statement, in place of ending the program.

    While a line is edited, Python looks for signals only when one interrupts the waiting for a key: a Ctrl-C that comes
    while the key before it is still being drawn would not be heard until Enter. So a thread hears it as well, and
    interrupts the waiting with a signal that means nothing more.
    """
    answered = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        answered.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    heard, rings = os.pipe()
    os.set_blocking(rings, False)
    bell = signal.set_wakeup_fd(rings, warn_on_full_buffer=False)
    threading.Thread(target=_nudge, args=(heard, answered, threading.get_ident()), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(bell)
        os.close(rings)
        signal.signal(signal.SIGINT, before)


def _nudge(heard: int, answered: threading.Event, editing: int) -> None:
    while os.read(heard, 1):
        for _ in range(20):
            if answered.wait(0.05):
                break
            # "The window may have another size": readline looks, and otherwise nobody minds.
            signal.pthread_kill(editing, signal.SIGWINCH)
        answered.clear()
    os.close(heard)


@contextmanager
def _history() -> Iterator[None]:
    """Line editing, completion and the lines of earlier sittings; without them where Python or the home has no room."""
    try:
        import readline
    except ImportError:  # Python may be built without it
        yield
        return
    readline.set_completer_delims(" \t\n,;()[]{}=<>+-*/%'\".|:")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    readline.set_completer(lambda text, state: (*complete(text, readline.get_line_buffer()), None)[state])
    path = history_file()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # For nobody else to read: a query may hold what a prompt says.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            readline.set_history_length(_HISTORY_LINES)
            readline.write_history_file(path)
