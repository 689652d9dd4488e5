"""Options that several commands share, their output, and what all groups of commands have in common."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from saeuron.errors import ConfigError
from storage.files import NO_ROOM

if TYPE_CHECKING:
    from rich.console import Console

    from storage import Workspace


UsageError: Any = typer.BadParameter.__base__
"""What Typer raises for words that no command takes; it lies elsewhere in each of Typer's versions."""


class _Given:
    """Refuses empty values: code would take them for `not given`, and a path for the current folder."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: dict[str, Any] = {}
        try:
            if not ctx.resilient_parsing:
                # Before types are converted: an empty path is `.` afterwards.
                given, _, _ = self.make_parser(ctx).parse_args(args=[*args])  # type: ignore[attr-defined]
                for parameter in self.params:
                    values = given.get(parameter.name)
                    values = values if isinstance(values, list | tuple) else [values]
                    if "" in values and parameter.name not in MAY_BE_EMPTY:
                        raise ConfigError(_empty(parameter))
            parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
            return parsed
        except UsageError as error:
            error.ctx = error.ctx or ctx
            at_fault: Any = getattr(error, "param", None)
            if at_fault in self.params:
                raise ConfigError(_refused(at_fault, given.get(at_fault.name), error.message)) from None
            raise


class _Command(_Given, TyperCommand):
    """One command."""


class _Group(_Given, TyperGroup):
    """A group's own options."""


MAY_BE_EMPTY = ("prompt",)
"""Parameters for which an empty text means something of its own: a model draws an empty prompt too."""


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name).strip("[]").upper()


def _meant(parameter: Any) -> str:
    return (getattr(parameter, "help", None) or "a value").rstrip(".")


def _empty(parameter: Any) -> str:
    name = _name(parameter)
    left_out = "" if parameter.required else f" Or leave {name} out."
    return f"{name} is empty; expected: {_meant(parameter)}.{left_out}"


def _refused(parameter: Any, value: Any, said: str) -> str:
    """Why a parameter's value cannot be, or that one is missing: Typer's words name no value, or no meaning."""
    if value is None:
        return f"{_name(parameter)} is missing; expected: {_meant(parameter)}."
    said = re.sub(r"^Value error, |, unable to parse .*|\.$", "", " ".join(said.split()))
    said = re.sub(r"^Input should be (?=an? )|^'[^']*' is not (?=one of )", "expected ", said)
    said = re.sub(r"^Input should be ", "expected a value ", said)
    return f"{_name(parameter)} {value}: {said} ({_meant(parameter)})."


class Commands(typer.Typer):
    """A group of commands."""

    def __init__(self, **more: Any) -> None:
        super().__init__(cls=_Group, rich_markup_mode=None, **({"no_args_is_help": True} | more))

    def command(self, name: str | None = None, **more: Any) -> Any:
        return super().command(name, cls=_Command, **more)


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


def file_out(*endings: str, reads: bool = False) -> Callable[[typer.CallbackParam, Path | None], Path | None]:
    """Callback of an option that names a file to write: it can be written, and its name ends as it should.

    So that nothing is loaded or drawn for a file that cannot be. One that is there may be one that is only read, where
    the command `reads` files too. The callback raises ConfigError.
    """

    def check(param: typer.CallbackParam, path: Path | None) -> Path | None:
        if path is None:
            return None
        named = f"{param.opts[0]} {path}"
        if endings and path.suffix.lower() not in endings:
            raise ConfigError(f"{named}: expected a file name that ends in {endings[0]}")
        if path.is_dir():
            raise ConfigError(f"{named}: this is a folder; expected the name of a file.")
        if not (reads and path.is_file()):
            _check_place(named, path.parent)
        return path

    return check


def folder_out(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Callback of an option that names a folder to make, or one that is there and can be written to."""
    if path is not None:
        named = f"{param.opts[0]} {path}"
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{named}: this is a file; expected a new or empty folder.")
        _check_place(named, path if path.is_dir() else path.parent)
    return path


def _check_place(named: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{named}: there is no folder {folder}; make it, or name another.")
    import tempfile

    try:
        # What may be written depends on more than modes: on who asks, and on what is mounted there.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno not in NO_ROOM:
            why = (error.strerror or "it is refused").lower()
            raise ConfigError(f"{named}: no file can be made in {folder} ({why}); name another folder.") from None


def damaged(count: int, workspace: "Workspace") -> None:
    """Say on standard error that what is printed lacks the rows of so many damaged artifacts and records."""
    from flows.hints import command

    if count:
        what = "1 artifact or record is" if count == 1 else f"{count} artifacts and records are"
        which = command("verify", workspace=workspace)
        typer.echo(f"note: {what} damaged, and the views lack the rows; this tells which: {which}", err=True)


def say(text: str = "") -> None:
    """Print a line of the result to standard output."""
    typer.echo(text)
