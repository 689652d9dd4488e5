"""The command line: `saeuron`.

Exit codes: 0 done, 1 something failed and the rest was kept, 2 the user's mistake, 130 interrupted.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from saeuron.errors import ConfigError, SaeuronError
from storage.errors import StorageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Name a concept, get a diffusion model without it, with the evidence.",
)
concept = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and add concepts.")
app.add_typer(concept, name="concept")

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder of everything that is made.")]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads on the CPU.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
WORKSPACE = Path("workspace")


def _console(as_json: bool = False) -> Console:
    """Progress goes to standard error, so that standard output holds the result alone."""
    return Console(stderr=True, quiet=as_json)


def _say(text: str = "") -> None:
    typer.echo(text)


@app.command()
def run(
    config: Annotated[str | None, typer.Argument(help="YAML file, or the name of an embedded one.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, over the file; repeatable.")
    ] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Precision of the model: float32, float16, bfloat16.")] = None,
    threads: Threads = 2,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be made, why, and at what cost.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run the whole method: prompts, capture, train, score, tune, evaluate. Run it again to go on.

    Example: saeuron run canvas --workspace workspace --set train.k=16
    """
    from flows.config import load

    chosen = load(config, [*(settings or ()), *([f"model.dtype={dtype}"] if dtype else ())])
    if plan:
        _plan(chosen, workspace, device, as_json)
        return
    _pipeline(chosen, workspace, None, device, threads, verbose, as_json)


@app.command()
def evaluate(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="Concepts to remove and measure; none: those of the run.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    seeds: Annotated[int | None, typer.Option(min=1, help="Images per test prompt.")] = None,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Measure removals on test prompts; what is missing for that is made first.

    Example: saeuron evaluate neon cat --seeds 5
    """
    from flows.check import check_concepts
    from storage import Workspace
    from tasks import runs

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    check_concepts(concepts or [], config, [a.name for a in runs.joined(opened, config)])
    if seeds is not None:
        config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"seeds": seeds})})
    _pipeline(config, workspace, concepts or None, device, threads, verbose, as_json, keep_config=False)


def _plan(config: Any, workspace: Path, device: str, as_json: bool) -> None:
    """Check, and say what a run would do; the workspace is left as it is, or absent."""
    import tempfile
    from dataclasses import asdict

    from flows.check import check, check_device
    from flows.environment import prepare

    with tempfile.TemporaryDirectory() as elsewhere:
        # Prefect makes its folder when it is imported.
        prepare(Path(elsewhere), verbose=False)
        check_device(device)
        check(config)
        from flows.plan import page, plan

        planned = plan(config, workspace.expanduser().absolute(), device=device)
    _say(json.dumps([asdict(p) for p in planned], indent=2) if as_json else "\n".join(page(planned)))


def _pipeline(
    config: Any,
    workspace: Path,
    concepts: list[str] | None,
    device: str,
    threads: int,
    verbose: bool,
    as_json: bool,
    keep_config: bool = True,
) -> None:
    """Check, run the flow, and say what came of it."""
    from flows.check import check, check_device
    from flows.environment import prepare
    from storage import Workspace

    console = _console(as_json)
    opened = Workspace.open(workspace)
    prepare(opened.root, verbose)
    console.print("checking the configuration", style="dim")
    check_device(device)
    check(config)
    console.print("starting Prefect", style="dim")
    from flows.display import Display
    from flows.pipeline import pipeline
    from tasks import progress, runs

    if keep_config:
        runs.remember(opened, config)
    with Display(console) as display, progress.listening(display):
        result = pipeline(config, str(opened.root), concepts, device, threads)
    if as_json:
        _say(json.dumps(result, indent=2, default=str))
    else:
        from flows.summary import closing

        _say(closing(opened, config, result))
    if result["failures"]:
        raise typer.Exit(1)


@concept.command("list")
def concept_list(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """Every concept of the workspace, and how far it is.

    Example: saeuron concept list
    """
    from flows.summary import concept_rows, text_table
    from storage import Workspace

    rows = concept_rows(Workspace.open(workspace, create=False))
    if as_json:
        _say(json.dumps(rows, indent=2))
    else:
        _say(text_table(["domain", "concept", "scored", "removal", "UA", "IRA", "CRA"], rows))
        _say("\nnext: saeuron concept show NAME")


@concept.command("show")
def concept_show(name: str, workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """One concept: its removal, its figures and where its pictures are.

    Example: saeuron concept show neon
    """
    from flows.check import check_concepts
    from flows.summary import concept_page
    from storage import Workspace
    from tasks import runs

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    check_concepts([name], config, [a.name for a in runs.joined(opened, config)])
    page = concept_page(opened, name)
    _say(json.dumps(page, indent=2) if as_json else "\n".join(page["lines"]))


@concept.command("add")
def concept_add(
    file: Annotated[Path, typer.Argument(help="YAML with `name`, `domain` and, if wanted, `templates`.")],
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Add a concept to a workspace; only its own work is done.

    Example: saeuron concept add examples/grain.yaml
    """
    from flows.check import check_added
    from flows.config import load_concept
    from storage import Workspace
    from tasks import runs

    opened = Workspace.open(workspace, create=False)
    config, new = runs.remembered(opened), load_concept(file)
    check_added(new, config)
    runs.add(opened, config, new)
    _pipeline(config, workspace, [new.name], device, threads, verbose, as_json, keep_config=False)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT statement.")],
    workspace: WorkspaceOption = WORKSPACE,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option(help="How to write the answer.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="Write here instead of to the screen.")] = None,
    seconds: Annotated[float, typer.Option(help="Stop the query after this time.")] = 60.0,
) -> None:
    """Ask the tables: prompts, captures, saes, statistics, scores, top_features, removals, images, metrics, runs.

    Example: saeuron sql "select concept, metric, value from metrics order by all"
    """
    from storage import Workspace
    from storage.query import format_table, run_query

    text = format_table(run_query(Workspace.open(workspace, create=False), query, seconds=seconds), format, out)
    _say(text if out is None else f"wrote {out}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    remove: Annotated[
        list[str] | None, typer.Option(help="A concept to remove, or a removal's file; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; the run's by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; the run's by default.")] = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out.png"),
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Draw a prompt without and with removals, side by side, from the same noise.

    Example: saeuron generate "An image of cat in neon style." --remove neon --out cat.png
    """
    from flows.check import check_device
    from flows.environment import prepare
    from tasks.generate import compare, find

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a file name that ends in .png")
    prepare(workspace, verbose=False)
    check_device(device)
    files = find(workspace, remove or [])
    overlap = compare(workspace, prompt, files, seed, steps, guidance, out, device, threads)
    for name, count in overlap.items():
        if count:
            _say(f"{count} (step, latent) pairs of {name} are in more than one removal; the stronger factor was used")
    _say(f"wrote {out}: unedited beside edited")


@app.command()
def status(
    workspace: WorkspaceOption = WORKSPACE,
    deep: Annotated[bool, typer.Option(help="Read every byte and compare its hash.")] = False,
    as_json: Json = False,
) -> None:
    """What is in the workspace, how large it is, what is outdated or damaged.

    Example: saeuron status --deep
    """
    from flows.summary import status_page
    from storage import Workspace

    page = status_page(Workspace.open(workspace, create=False), deep)
    _say(json.dumps(page, indent=2) if as_json else "\n".join(page["lines"]))
    if page["problems"]:
        raise typer.Exit(1)


class Interrupted(BaseException):
    """Ctrl-C or a polite kill; a KeyboardInterrupt the command-line library would end in words of its own."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


def _interrupt(signum: int, frame: Any) -> None:
    raise Interrupted(signum)


def main() -> None:
    """Entry point: errors become one line and an exit code; a user never sees a traceback for a mistake."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except Interrupted as end:
        typer.echo("\nsaeuron: interrupted; what was finished is kept. Run the same command again to go on.", err=True)
        if "prefect" in sys.modules:
            from flows.environment import stop_server

            stop_server()
        # Prefect's helper threads would otherwise be waited for.
        os._exit(end.code)
    except (SaeuronError, StorageError, OSError) as error:
        from saeuron.errors import UserError
        from storage.errors import UserError as StorageUserError

        typer.echo(f"saeuron: {' '.join(str(error).split())}", err=True)
        sys.exit(2 if isinstance(error, (UserError, StorageUserError, FileNotFoundError)) else 1)


if __name__ == "__main__":
    main()
