"""`saeuron report`: one HTML file about a run, or about the removals of a concept."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, WorkspaceOption, file_out, say


def report(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|CONCEPT]",
            help="A run (3, last, last~1, its id) or a concept; by default last, the last that measured.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=file_out(".html", ".htm", reads=True), help="The HTML file; in the workspace's reports by default."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Judge the stored images again and compare with the figures in the file.")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Write one HTML file that shows a run.

    It holds images with and without each removal, figures with their controls, damage to other concepts, latents, and
    the origin of everything, and needs no other file. With --check, an existing file is not written again.

    Example: saeuron report last --out report.html
    """
    from flows.check import check_device
    from flows.environment import prepare
    from storage import Workspace

    check_device(device)
    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose=False)
    from flows.explore.report import Subject
    from flows.hints import command
    from storage import text
    from tasks.engine import model
    from tasks.explore.run_report import too_large

    model.set_threads(threads)
    subject = Subject(opened, what)
    path = out or subject.place
    if not (check and path.exists()):
        subject.write(path)
    if large := too_large(path.stat().st_size):
        typer.echo(f"note: {large}", err=True)
    compared, lines, unchecked = subject.check(path, device) if check else (0, [], [])
    if as_json:
        names = [m.id for m in subject.evaluations]
        told = {"page": str(path), "evaluations": names, "checked": compared, "differ": lines, "unchecked": unchecked}
        say(json.dumps(told, indent=2))
    else:
        if check:
            say("\n".join(text.filled(line, "  ") for line in lines) or f"{compared} figures are those of the images")
            say(text.filled(f"not checked: {'; '.join(unchecked)}", "  "))
        say(f"page: {path} ({path.stat().st_size / 1e6:.1f} MB)")
        words = ("explore",) if check else ("report", *filter(None, [what]), "--check")
        say(f"next: {command(*words, workspace=workspace)}")
    if lines:
        raise typer.Exit(1)
