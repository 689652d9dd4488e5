"""The command `saeuron`. Each of its commands is a file in `flows/commands/`.

Exit codes: 0 done, 1 something failed and the rest was kept, 2 a mistake of the user, 130 interrupted.
"""

import os
import shlex
import signal
import sys
import warnings
from typing import Annotated, Any

import typer

from flows import environment
from flows.commands import concept, concept_new, removal, sae, sae_report
from flows.commands.deploy import deploy
from flows.commands.diff import diff
from flows.commands.doctor import doctor
from flows.commands.explore import explore
from flows.commands.gc import gc
from flows.commands.generate import generate
from flows.commands.measure import unlearncanvas
from flows.commands.measure.audit import audit
from flows.commands.measure.bench import bench
from flows.commands.measure.blindspots import blindspots
from flows.commands.measure.compare import compare
from flows.commands.measure.hookpoints import hookpoints
from flows.commands.measure.inception import inception
from flows.commands.measure.locate import locate
from flows.commands.measure.sequence import sequence
from flows.commands.measure.steer import steer
from flows.commands.options import Commands, UsageError
from flows.commands.report import report
from flows.commands.run import evaluate, remove, run
from flows.commands.runs import runs
from flows.commands.sql import sql
from flows.commands.status import status
from flows.commands.verify import verify
from saeuron.errors import SaeuronError
from storage.errors import StorageError

app = Commands(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Name a concept, get a diffusion model without it, with the evidence.",
)


def _version(asked: bool) -> None:
    if asked:
        from saeuron import __version__

        typer.echo(" ".join(("saeuron", __version__)))
        raise typer.Exit


@app.callback()
def saeuron(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Name a concept, get a diffusion model without it, with the evidence."""


for command in (
    run,
    evaluate,
    compare,
    sequence,
    bench,
    audit,
    remove,
    report,
    explore,
    runs,
    sql,
    generate,
    hookpoints,
    locate,
    inception,
    blindspots,
    doctor,
    status,
    verify,
    gc,
    diff,
    deploy,
):
    app.command()(command)
concept.app.command("new")(concept_new.concept_new)
app.add_typer(concept.app, name="concept")
sae.app.command("report")(sae_report.report)
sae.app.command("prove")(sae_report.prove)
sae.app.command("explain")(sae_report.explain)
app.add_typer(sae.app, name="sae")
app.add_typer(unlearncanvas.app, name="unlearncanvas")
sae_report.latents.command("steer")(steer)
app.add_typer(sae_report.latents, name="latent")
# The old name of `latent`, kept for one release.
app.add_typer(sae_report.latents, name="feature", hidden=True)
app.add_typer(removal.app, name="removal")


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, for which Typer prints its own message."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


def _interrupt(signum: int, frame: Any) -> None:
    raise Interrupted(signum)


def main() -> None:
    """Run a command. Errors become one line and an exit code, without a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    warnings.formatwarning = _warning
    environment.command = shlex.join(["saeuron", *sys.argv[1:]])
    try:
        # Otherwise Typer would print its own errors, in several lines, and under the name of the file that was run.
        sys.exit(app(prog_name="saeuron", standalone_mode=False))
    except UsageError as error:
        sys.exit(_misused(error))
    except Interrupted as end:
        typer.echo("\nsaeuron: interrupted; what was finished is kept. Run the same command again to go on.", err=True)
        if "flows.server" in sys.modules:
            from flows import server

            server.stop()
        # A normal exit would wait for Prefect's helper threads.
        os._exit(end.code)
    except (SaeuronError, StorageError, OSError) as error:
        from saeuron.errors import UserError
        from storage.errors import UserError as StorageUserError

        typer.echo(f"saeuron: {_line(error)}", err=True)
        sys.exit(2 if isinstance(error, (UserError, StorageUserError, *WRONG_PATH)) else 1)


def _misused(error: Any) -> int:
    """Print why words are no command, in one line, or the help where a group was called alone; the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        said = " ".join(error.format_message().split()).rstrip(".?").replace(". Did", "; did")
        path = error.ctx.command_path if error.ctx else "saeuron"
        typer.echo(f"saeuron: {said[:1].lower()}{said[1:]}; see {path} --help", err=True)
    return int(error.exit_code)


_format = warnings.formatwarning


def _warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """A warning of our own as one line; another as Python shows it."""
    from saeuron.errors import FullMemory, OtherModel

    if issubclass(category, (FullMemory, OtherModel)):
        return f"saeuron: {message}\n"
    return _format(message, category, *place, **more)


WRONG_PATH = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
"""Errors of the operating system about a path that the user gave."""


def _line(error: Exception) -> str:
    """An error as one line. For errors of the operating system, it names the path and what to do."""
    from storage.errors import DiskFull
    from storage.files import NO_ROOM

    if isinstance(error, OSError) and error.filename and error.errno in NO_ROOM:
        return str(DiskFull(error.filename, 0))
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"cannot use {error.filename}: {error.strerror.lower()}; name a file or folder that you may use"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
