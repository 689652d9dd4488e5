"""`saeuron bench`: score a removal on a fixed protocol."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Device, Json, Threads, Verbose, console_for, folder, say
from saeuron.config import RunConfig
from saeuron.errors import ConfigError

PLACE = Path("workspace-bench")


def bench(
    protocol: Annotated[str, typer.Argument(help="`canvas`, or a YAML file of your own.")],
    method: Annotated[
        str, typer.Argument(help="A method, a removal's file, a pipeline's folder, or module:attribute.")
    ],
    removed: Annotated[
        str | None, typer.Option(help="The removed concept; needed for a folder and for module:attribute.")
    ] = None,
    workspace: Annotated[
        Path,
        typer.Option(
            "--workspace",
            "-w",
            metavar="PLACE",
            parser=folder,
            help="Folder for the protocol's own workspace, which methods share.",
        ),
    ] = PLACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print only the line for the table of docs/leaderboard.md.")
    ] = False,
) -> None:
    """Score a removal on a fixed protocol, beside controls.

    It prints one row of docs/leaderboard.md.

    For a method, a run in the workspace makes its removals, beside controls. Three other things can be scored without a
    workspace: a removal's file; the folder of a diffusers pipeline without the concept; or module:attribute, an object
    whose attached(pipe) is a context manager that may yield arguments for the pipeline's call. The module is imported,
    from the current folder too, which runs its code: name only modules that you trust.

    Example: saeuron bench canvas saeuron
    """
    from flows.bench import Benched, is_method, markdown, of_method, of_run, page
    from flows.bench import protocol as named
    from flows.hints import command

    if as_json and as_markdown:
        raise ConfigError("--json and --markdown exclude each other; give one.")
    config, quiet = named(protocol), as_json or as_markdown
    if is_method(method, removed, config.tune.concepts or ()):
        from flows.commands.run import carry_out
        from storage.layout import MARK

        config = of_method(config, method)
        _check_roster(config, workspace)
        new = not (workspace / MARK).exists()
        concepts = list(config.tune.concepts or ())
        opened, result = carry_out(config, workspace, concepts, device, threads, verbose, quiet, keep_config=new)
        if result["failures"]:
            for what, why in result["failures"]:
                typer.echo(f"FAILED  {what}: {why}", err=True)
            typer.echo("saeuron: no row, because a step failed; run the same command again.", err=True)
            raise typer.Exit(1)
        found, seconds = of_run(opened, config, result)
    else:
        from flows.check import check_device
        from flows.environment import prepare
        from saeuron.figures.row import row

        prepare(workspace, verbose=False)
        check_device(device)
        from tasks.bench import outside, subject

        what, console, began = subject(method, removed, config), console_for(quiet), time.monotonic()
        seen = outside(config, what, device, threads, lambda line: console.print(line, style="dim"))
        found, seconds = row(tuple(config.domains), [seen]), time.monotonic() - began
    gone = ("--removed", removed) if removed else ()
    benched = Benched(method, found, seconds, command("bench", protocol, method, *gone))
    say(json.dumps(benched.json(), indent=2) if as_json else markdown(benched) if as_markdown else page(benched))


def _check_roster(config: RunConfig, workspace: Path) -> None:
    """Raise if concepts were added to or dropped from the workspace: its removals are of another protocol."""
    from storage import Workspace
    from storage.layout import MARK
    from tasks.registry.concepts import Roster

    if (workspace / MARK).exists():
        roster = Roster.of(Workspace.open(workspace, create=False), config)
        if changed := sorted({*(c.name for c in roster.added), *roster.dropped}):
            raise ConfigError(
                f"the workspace {workspace} has concepts that were added or dropped ({', '.join(changed)}), so its "
                "figures are of another protocol; give another --workspace."
            )
