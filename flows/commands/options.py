"""Options that several commands share, and their output."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


class _Unnamed(type(Path())):  # type: ignore[misc]
    """Path type that marks a workspace which the user did not name."""


WORKSPACE: Path = _Unnamed("workspace")
"""Folder of a new workspace if the user names none and none is found here or above."""
MARK = "workspace.json"


def folder(workspace: str | Path) -> Path:
    """The folder of a workspace that was named by a path or a URL; if it was not named, the nearest one above."""
    from storage.workspace import locate

    return locate(_nearest() if isinstance(workspace, _Unnamed) else workspace)


def _nearest() -> Path:
    """The workspace that this folder is in, or that lies here or above as `workspace`; else `workspace` here."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        for found in (folder / WORKSPACE, folder):
            if (found / MARK).is_file():
                return Path(WORKSPACE) if found == here / WORKSPACE else found
    return Path(WORKSPACE)


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder for all results, or s3://BUCKET/PREFIX; by default the nearest workspace, here or above.",
        envvar="SAEURON_WORKSPACE",
        parser=folder,
        metavar="PLACE",
    ),
]
Device = Annotated[str, typer.Option(help="Device for models: cpu, cuda, cuda:1.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads on the CPU.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def console_for(as_json: bool = False) -> "Console":
    """A console on standard error, for progress: standard output holds the result alone."""
    from rich.console import Console

    return Console(stderr=True, quiet=as_json)


def say(text: str = "") -> None:
    """Print a line of the result to standard output."""
    typer.echo(text)
