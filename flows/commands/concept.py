"""`saeuron concept list | show | add | drop | refresh | relatives`."""

import contextlib
import io
import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import (
    WORKSPACE,
    Commands,
    Device,
    Json,
    Threads,
    Verbose,
    WorkspaceOption,
    console_for,
    say,
)
from flows.commands.run import run_pipeline

app = Commands(help="List, show, compare, add, drop and refresh concepts.")

Name = Annotated[str, typer.Argument(help="A concept of the workspace.")]


@app.command("list")
def concept_list(workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """List every concept with its state and newest figures.

    Example: saeuron concept list
    """
    from flows.hints import command
    from flows.summary import concept_rows, text_table
    from flows.upkeep.refresh import outdated
    from storage import Workspace
    from tasks.registry import runs
    from tasks.registry.concepts import Roster

    opened = Workspace.open(workspace, create=False)
    dropped = Roster.of(opened, runs.remembered(opened)).dropped
    old_ones = outdated(opened)
    rows = [
        row | {"outdated": old_ones.get((row["concept"], row["method"]))}
        for row in concept_rows(opened)
        if row["concept"] not in dropped
    ]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    header = ["domain", "concept", "scored", "method", "outdated", "UA", "IRA", "CRA", "verdict"]
    say(text_table(header, rows, wrapped=["concept"], optional=["domain", "scored"]))
    say("")
    if dropped:
        say(f"dropped: {', '.join(sorted(dropped))} (saeuron concept add FILE brings one back)")
    then = ("refresh", "--all") if any(row["outdated"] for row in rows) else ("show", "NAME")
    say(f"next: {command('concept', *then, workspace=opened)}")


@app.command("show")
def concept_show(name: Name, workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """Show a concept: its removals, figures and pictures.

    Example: saeuron concept show neon
    """
    from flows.summary import concept_page
    from flows.upkeep.refresh import check_present
    from storage import Workspace
    from tasks.registry import runs
    from tasks.registry.concepts import Roster

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    check_present(name, config, Roster.of(opened, config))
    page = concept_page(opened, name)
    say(json.dumps(page, indent=2) if as_json else "\n".join(page["lines"]))


@app.command("add")
def concept_add(
    file: Annotated[Path, typer.Argument(help="YAML file with `name`, `domain` and optional `templates`.")],
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Add a concept, or restore a dropped one.

    Only the work for this concept is done. With more templates than before, only the difference.

    Example: saeuron concept add examples/grain.yaml
    """
    from flows.config import load_concept
    from flows.hints import command
    from flows.upkeep.refresh import outdated
    from flows.work import add_concept
    from storage import Workspace

    opened = Workspace.open(workspace, create=False)
    work = add_concept(opened, load_concept(file))
    run_pipeline(work.config, workspace, work.concepts, device, threads, verbose, as_json, keep_config=False)
    if not as_json and (old_ones := sorted({concept for (concept, _), old in outdated(opened).items() if old})):
        again = command("concept", "refresh", "--all", workspace=opened)
        say(f"outdated removals: {', '.join(old_ones)}; compute them again with: {again}")


@app.command("drop")
def concept_drop(name: Name, workspace: WorkspaceOption = WORKSPACE) -> None:
    """Take a concept off the workspace's list.

    Later runs and scores leave it out; its files stay until `saeuron gc`.

    Example: saeuron concept drop neon
    """
    from flows.hints import command
    from flows.upkeep.refresh import check_present, outdated
    from saeuron.errors import ConfigError
    from storage import Workspace
    from tasks.registry import concepts, runs
    from tasks.registry.concepts import Roster

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    roster = Roster.of(opened, config)
    check_present(name, config, roster)
    domain, names = next(item for item in roster.present(config).items() if name in item[1])
    if names == (name,):
        raise ConfigError(f"concept {name!r} is the last one of {domain}; expected another one to remain.")
    concepts.drop(opened, config, name)
    old_ones = sorted({c for (c, _), old in outdated(opened).items() if old})
    say(f"{name} has left scores and runs; nothing was deleted (saeuron concept add FILE brings it back)")
    say(f"outdated removals: {', '.join(old_ones) or 'none'}")
    then = ("concept", "refresh", "--all") if old_ones else ("gc", "--dry-run")
    say(f"next: {command(*then, workspace=opened)}")


@app.command("refresh")
def concept_refresh(
    name: Annotated[str | None, typer.Argument(help="The concept whose removal is outdated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All concepts whose removal is outdated.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compute outdated removals again, against today's concepts.

    They are tuned and evaluated, and the changes in their figures are printed.

    Example: saeuron concept refresh neon
    """
    from flows.check import check_device
    from flows.upkeep import refresh
    from storage import Workspace
    from tasks.registry import concepts, runs

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    names = refresh.choose(opened, config, name, everything)
    if not names:
        say("[]" if as_json else f"{name or 'every removal'} is up to date")
        return
    check_device(device)
    before = refresh.states(opened, names)
    for concept in names:
        concepts.refresh(opened, config, concept)
    # The run prints its own result first; with --json only one document may be printed.
    aside = contextlib.redirect_stdout(io.StringIO()) if as_json else contextlib.nullcontext()
    code = 0
    try:
        with aside:
            run_pipeline(config, workspace, names, device, threads, verbose, as_json, keep_config=False)
    except typer.Exit as end:
        # Something failed; print what changed, and exit with this code.
        code = end.exit_code
    after = refresh.states(opened, names)
    if as_json:
        say(json.dumps(refresh.as_json(before, after), indent=2))
    else:
        say("\n" + "\n".join(refresh.page(before, after)))
    if code:
        raise typer.Exit(code)


@app.command("relatives")
def concept_relatives(
    concept: Annotated[str | None, typer.Argument(help="One concept; by default all.")] = None,
    domain: Annotated[str | None, typer.Option(help="One domain; by default all.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Method whose damage is compared; by default the run's first.")
    ] = None,
    templates: Annotated[
        bool, typer.Option("--templates", help="List the pairs of objects that canvas draws most alike.")
    ] = False,
    workspace: WorkspaceOption = WORKSPACE,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Show which concepts are alike, as a table and a tree.

    Similarity is the cosine between the mean activations of two concepts, each less the mean of all concepts, from
    statistics in the workspace. It is compared with the overlap of the renderer's templates (canvas), and with what
    other concepts lost when one was removed. Controls: permuted names and an untrained SAE. The view `relatives` has
    every pair.

    Example: saeuron concept relatives king
    """
    from flows.environment import check_server, prepare
    from flows.hints import command
    from storage import Workspace
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    config = runs.remembered(opened)
    from flows.inspection import relatives as of

    if templates:
        drawn = of.templates(config, concept)
        say(json.dumps(drawn, indent=2) if as_json else "\n".join(of.template_lines(drawn)))
        return
    domains = of.asked(opened, config, concept, domain)
    from saeuron.errors import UnknownName

    if method is not None and method not in config.method:
        raise UnknownName("method", method, config.method)
    chosen = method or config.method[0]
    found = of.jobs(opened, config, domains, chosen)
    if not of.made(found, opened):
        from flows.display import on_prefect

        check_server()
        with on_prefect(console_for(as_json)):
            of.relatives_flow(config, str(opened.root), domains, chosen)
    pages = [of.told(opened, job) for job in found]
    if as_json:
        say(json.dumps(pages, indent=2))
        return
    say("\n\n".join("\n".join(of.lines(page, concept)) for page in pages))
    query = "select a, b, similarity, iou, ira_loss from relatives where place <= 3 order by all"
    say(f"next: {command('sql', query, workspace=opened)}")
