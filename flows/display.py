"""Progress of a run: bars on a terminal, a line per finished step elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Left(TimeRemainingColumn):
    """`00:51 left`; nothing for a row that is done."""

    def render(self, task: Task) -> Text:
        left = super().render(task)
        return Text("") if task.finished else left.append(" left")


class Display:
    """Bars and lines, fed by `tasks.engine.progress`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=14),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            Left(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}
        self.finished: dict[str, int] = {}
        self.now = self.between = ""

    def __enter__(self) -> Self:
        self.bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.__exit__(kind, error, trace)

    def stage(self, name: str, done: int, total: int) -> None:
        self.now = name
        self.finished[name] = done
        if name not in self.rows:
            self.rows[name] = self.bars.add_task(name, total=max(total, 1), note="")
        self.bars.update(self.rows[name], completed=done if total else 1, total=max(total, 1))
        if total and done == total:
            self.bars.update(self.rows[name], note="")
            self.bars.stop_task(self.rows[name])

    def within(self, what: str, done: int, total: int, note: str) -> None:
        if self.now not in self.rows or self.bars.tasks[self.rows[self.now]].finished:
            # A long step between two stages has a row of its own; one that ended late has none.
            if (own := what.split()[0]) in self.rows:
                return
            self.between = own
            self.stage(own, 0, 1)
        row = self.rows[self.now]
        completed = self.finished[self.now] + min(done / max(total, 1), 0.99)
        text = f"{what}  {done}/{total} {note}"[: max(self.console.width - 56, 10)]
        self.bars.update(row, completed=completed, note=text)
        if self.now == self.between and done >= total:
            self.stage(self.now, 1, 1)

    def line(self, text: str) -> None:
        if not self.console.is_terminal or text.startswith(("FAILED", "note:")):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def on_prefect(console: Console) -> Iterator[None]:
    """Provide a Prefect server for the block; show progress on the terminal and on Prefect's page."""
    from flows import server
    from tasks.engine import page, progress

    server.start()
    page.hear_libraries()
    with Display(console) as display, progress.listening(display, page.Bars()), server.answering(), server.reachable():
        yield
