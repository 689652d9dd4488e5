"""Helpers that the commands of `python -m saeuron.canvas` share."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()

Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1 ...")]
Model = Annotated[str, typer.Option(help="Which model: canvas (100 objects) or canvas20.")]
Threads = Annotated[int, typer.Option(help="Torch threads on the CPU.")]


def bar_of(label: str) -> Progress:
    """A progress bar whose tasks have a field `note`."""
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console)
