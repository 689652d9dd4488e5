"""Options that several commands share, and their output."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def _folder(workspace: str | Path) -> Path:
    """The folder of a workspace that was named by a path or a URL."""
    from storage.workspace import locate

    return locate(workspace)


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of everything that is made, or s3://BUCKET/PREFIX.",
        parser=_folder,
        metavar="PLACE",
    ),
]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads on the CPU.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
WORKSPACE = Path("workspace")


def console_for(as_json: bool = False) -> "Console":
    """A console on standard error, for progress: standard output holds the result alone."""
    from rich.console import Console

    return Console(stderr=True, quiet=as_json)


def say(text: str = "") -> None:
    """Print a line of the result to standard output."""
    typer.echo(text)
