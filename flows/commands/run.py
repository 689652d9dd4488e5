"""`saeuron run`, `evaluate` and `remove`: the whole method, or what some concepts still need for their figures."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import WORKSPACE, Device, Json, Threads, Verbose, WorkspaceOption, console_for, say


def run(
    config: Annotated[
        str | None,
        typer.Argument(help="YAML file, or the name of an embedded one (canvas, sd15_style); `list`: list the runs."),
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE overrides the file; repeatable.")
    ] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Precision of the model: float32, float16, bfloat16.")] = None,
    threads: Threads = 2,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 also if the verdict on a removal is `failed`.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be made, why, and at what cost.")] = False,
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="With --plan: speed of the device in TFLOP/s (an A100: about 50).")
    ] = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run the whole method, or continue a run.

    Stages: prompts, capture, train, score, tune, images, judge, evaluate. Artifacts that exist are not made again.

    Example: saeuron run canvas --workspace workspace --set train.k=16
    """
    from flows.config import load
    from saeuron.errors import ConfigError

    if tflops is not None and not plan:
        raise ConfigError("--tflops is of --plan, which estimates the time; give both, or neither.")
    if config == "list":
        from flows.commands.runs import runs

        runs(workspace, as_json)
        return
    chosen = load(config, [*(settings or ()), *([f"model.dtype={dtype}"] if dtype else ())])
    from flows.sae import given

    if plan:
        given.refuse(chosen, workspace)
        _plan(chosen, workspace, device, tflops, as_json)
        return
    chosen = given.brought(chosen, workspace)
    run_pipeline(chosen, workspace, None, device, threads, verbose, as_json, strict=strict)


def evaluate(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="Concepts to remove and measure; by default those of the run.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
    seeds: Annotated[int | None, typer.Option(min=1, help="Images per test prompt.")] = None,
    judge: Annotated[str, typer.Option(help="Judge the stored images of finished evaluations with this judge.")] = "",
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Measure removals on test prompts.

    Missing removals and images are made first. With --judge nothing is generated: another judge, with which nothing
    was tuned, judges the stored images of finished evaluations, those of controls included (view `second_opinions`).

    Example: saeuron evaluate neon cat --seeds 5
    """
    from flows.work import measure
    from storage import Workspace

    if judge:
        _judged_again(judge, list(concepts or ()), workspace, seeds, device, threads, verbose, as_json)
        return
    work = measure(Workspace.open(workspace, create=False), concepts or (), seeds)
    run_pipeline(work.config, workspace, work.concepts, device, threads, verbose, as_json, keep_config=False)


def _judged_again(
    judge: str,
    concepts: list[str],
    workspace: Path,
    seeds: int | None,
    device: str,
    threads: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Have a second judge look at the images of finished evaluations, and print both judges' figures."""
    from flows.environment import check_server, prepare
    from saeuron.errors import ConfigError
    from storage import Workspace
    from tasks.registry import runs

    if seeds is not None:
        raise ConfigError("--judge looks at stored images, so --seeds has no use; give one of the two.")
    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    config = runs.remembered(opened)
    from flows.check import check_device
    from flows.display import on_prefect
    from flows.hints import command
    from flows.measure.second import check, lines, second_flow

    check_device(device)
    check(opened, judge, concepts)
    with on_prefect(console_for(as_json)):
        made = second_flow(config, str(opened.root), judge, concepts, device, threads)
    for what, why in made["failures"]:
        typer.echo(f"FAILED  {what}: {why}", err=True)
    if as_json:
        say(json.dumps({name: made[name] for name in ("rows", "counts", "failures")}, indent=2, default=str))
    elif made["rows"]:
        say("\n".join(lines(made, judge)))
        query = "select concept, method, metric, first_value, value, low, high, same from second_opinions order by all"
        say(f"next: {command('sql', query, workspace=opened)}")
    if made["failures"]:
        raise typer.Exit(1)


def remove(
    concept: Annotated[str, typer.Argument(help="The concept to remove.")],
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Remove a concept: find its removal, or make and measure it.

    A new workspace uses the embedded configuration, canvas.

    Example: saeuron remove neon
    """
    from flows.config import load
    from flows.work import measure
    from saeuron.errors import UnknownName
    from storage import Workspace
    from tasks.registry import runs

    if (workspace / runs.CONFIG).exists():
        work = measure(Workspace.open(workspace, create=False), [concept])
        run_pipeline(work.config, workspace, work.concepts, device, threads, verbose, as_json, keep_config=False)
        return
    config = load(None)
    known = [name for domain in config.domains.values() for name in domain.concepts]
    if concept not in known:
        raise UnknownName("concept", concept, known, "Others need a configuration of your own: saeuron run FILE")
    config = config.model_copy(update={"tune": config.tune.model_copy(update={"concepts": (concept,)})})
    run_pipeline(config, workspace, None, device, threads, verbose, as_json)


def _plan(config: Any, workspace: Path, device: str, tflops: float | None, as_json: bool) -> None:
    """Check, and print what a run would do; the workspace is not changed or created."""
    import tempfile
    from dataclasses import asdict

    from flows.environment import prepare
    from storage import Workspace, text
    from storage.layout import MARK

    with tempfile.TemporaryDirectory() as elsewhere:
        # Prefect makes its folder when it is imported.
        prepare(Path(elsewhere), verbose=False)
        from flows.counting.amounts import amounts
        from flows.counting.page import page as counted_page
        from flows.counting.page import rate_of
        from flows.plan import page, planned
        from flows.stages.prompts import too_long
        from flows.stages.tune import unsearched
        from flows.work import check_all
        from saeuron.prompts import build

        root = workspace.expanduser().absolute()
        if (root / MARK).exists():
            Workspace.open(root, create=False)
        # A plan reads configuration files alone.
        check_all(config, device, Workspace(root), weights=False)
        run = planned(config, root, device=device)
        found = list(run.planned.values())
        counted = amounts(run)
        speed = rate_of(run, tflops)
        # The tokenizer of a model that is not here would be fetched with its weights.
        long = too_long(config.model.spec, build(config.prompts, config.domains)) if run.model_id else ""
    notes = [note for note in (unsearched(config), long) if note]
    if as_json:
        say(json.dumps([asdict(p) | {"counted": _counted(counted.get(p.id), speed)} for p in found], indent=2))
        for note in notes:
            typer.echo(note, err=True)
    else:
        say("\n".join([*page(found), *counted_page(counted, run, speed), *map(text.filled, notes)]))


def _counted(amount: Any, speed: Any) -> dict[str, float] | None:
    """The cost of making an artifact, as JSON values; None for one that exists."""
    from dataclasses import asdict

    return None if amount is None else asdict(amount) | {"hours": amount.flop / speed.flops / 3600}


def run_pipeline(
    config: Any,
    workspace: Path,
    concepts: list[str] | None,
    device: str,
    threads: int,
    verbose: bool,
    as_json: bool,
    keep_config: bool = True,
    strict: bool = False,
) -> None:
    """Check the configuration, run the flow, print the result."""
    opened, result = carry_out(config, workspace, concepts, device, threads, verbose, as_json, keep_config)
    from flows.closing import closing, to_use

    say(json.dumps(result, indent=2, default=str) if as_json else closing(opened, config, result))
    if result["failures"] or (strict and any(e["verdict"] == "failed" for e in to_use(config, result))):
        raise typer.Exit(1)


def carry_out(
    config: Any,
    workspace: Path,
    concepts: list[str] | None,
    device: str,
    threads: int,
    verbose: bool,
    quiet: bool,
    keep_config: bool = True,
) -> tuple[Any, dict[str, Any]]:
    """Check the configuration and run the flow; returns the workspace and what `flows.pipeline.pipeline` does.

    Where nothing has to be made, no Prefect server is started. A server that the user named is told of every run.
    """
    from flows import server
    from flows.environment import check_server, prepare, server_address
    from flows.work import check_all
    from storage import Workspace
    from tasks.registry import runs

    console = console_for(quiet)
    opened = Workspace.open(workspace)
    prepare(opened.root, verbose)
    check_server()
    console.print("checking the configuration", style="dim")
    new = not (opened.root / runs.CONFIG).exists()
    if new:
        # A new workspace has work to do in any case, so the server starts while the configuration is checked.
        server.start()
    check_all(config, device, opened)
    from flows.display import Display, on_prefect
    from flows.pipeline import pipeline
    from flows.walk import finds_everything
    from tasks.engine import progress

    if keep_config:
        runs.remember(opened, config)
    arguments = (config, str(opened.root), concepts, device, threads)
    if not new and not server_address() and finds_everything(config, opened, concepts, device):
        with Display(console) as display, progress.listening(display):
            result = pipeline(*arguments)
    else:
        console.print("starting Prefect", style="dim")
        server.start()
        from flows.flow import launch

        with on_prefect(console):
            result = launch(*arguments)
    return opened, result
