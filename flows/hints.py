"""Commands shown to the user, quoted for a shell."""

import shlex
from pathlib import Path

from flows.commands.options import WORKSPACE
from storage import Workspace


def command(*words: object, workspace: Workspace | Path | None = None) -> str:
    """`saeuron WORDS -w PLACE`; without the option for the default workspace, or for None."""
    return shlex.join(["saeuron", *map(str, words)]) + at(workspace or WORKSPACE)


def at(workspace: Workspace | Path) -> str:
    """` -w PLACE`: a folder or a URL; empty for the default workspace."""
    if isinstance(workspace, Path):
        workspace = Workspace(workspace.expanduser().absolute())
    return "" if workspace.root.absolute() == WORKSPACE.absolute() else f" -w {shlex.quote(workspace.address)}"
