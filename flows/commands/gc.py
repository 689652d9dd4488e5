"""`saeuron gc`: delete what nothing refers to."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Json, WorkspaceOption, say


def gc(
    workspace: WorkspaceOption = WORKSPACE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what nothing refers to.

    These are unused artifacts, damaged files that were moved away, and files of dropped concepts.

    Example: saeuron gc --dry-run
    """
    from flows.environment import prepare
    from storage import Workspace
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    # First, because the imports below take seconds.
    runs.remembered(opened)
    with tempfile.TemporaryDirectory() as elsewhere:
        # Prefect makes its folder when it is imported; nothing is run here, so a temporary one will do.
        prepare(Path(elsewhere), verbose=False)
        from flows.upkeep import gc as flow

        found = flow.survey(opened) if dry_run else flow.collect(opened)
    say(json.dumps([asdict(g) for g in found], indent=2, default=str) if as_json else flow.page(opened, found, dry_run))
