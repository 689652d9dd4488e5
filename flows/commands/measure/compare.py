"""`saeuron compare`: methods side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import (
    WORKSPACE,
    Device,
    Json,
    Threads,
    Verbose,
    WorkspaceOption,
    console_for,
    file_out,
    say,
)

if TYPE_CHECKING:
    from saeuron.figures.comparison import Difference
    from saeuron.figures.contest import Contest
    from tasks.compare import Cost

NAMED = 3
"""Labels that are printed for what images of a removed concept become."""
MANY = 20
"""Of more concepts, those alone are printed that some images still show."""


def compare(
    concepts: Annotated[
        list[str] | None, typer.Argument(help="Concepts to remove; by default those of the workspace's run.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; by default those of the workspace's run.")
    ] = "",
    against: Annotated[str, typer.Option(help="The method to compare the others with; by default the best.")] = "",
    workspace: WorkspaceOption = WORKSPACE,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, over the workspace's configuration; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(callback=file_out(".png"), help="The picture, a PNG.")] = Path("compare.png"),
    leave_out: Annotated[
        int, typer.Option(min=0, help="Train SAEs without this many of the concepts at a time; 0: do not.")
    ] = 0,
    confusable: Annotated[
        int, typer.Option(min=0, help="Remove the objects of this many pairs, those that canvas draws most alike.")
    ] = 0,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Measure the time per image.")] = True,
    device: Device = "cpu",
    threads: Threads = 2,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare methods on the same images.

    Prints figures with intervals, controls, differences beyond chance, and costs. Missing removals and images are made
    first. A new workspace uses the embedded configuration, canvas.

    With --leave-out K, SAEs are trained without the images of K concepts at a time, and remove these concepts. Beside
    them: SAEs that saw the concepts, an untrained SAE, and labels of other concepts (view `left_out`).

    Example: saeuron compare neon cat --methods saeuron,uce,negative_prompt
    """
    from flows.commands.run import carry_out
    from flows.config import changed, load
    from flows.hints import command
    from flows.stages.compare import controls
    from flows.work import measure
    from saeuron.errors import ConfigError
    from storage import Workspace
    from tasks.registry import runs

    new = not (workspace / runs.CONFIG).exists()
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if len({*names}) < len(names):
        raise ConfigError(f"--methods names one twice ({methods}); name each once.")
    told = [*(settings or ()), *([f"method={json.dumps(names)}"] if names else ())]
    if new:
        config, chosen = load(None, told), list(concepts or ())
        if unknown := [c for c in chosen if config.domain_of(c) is None]:
            raise ConfigError(f"no concept {unknown[0]!r} in the configuration canvas, which a new workspace takes.")
    else:
        work = measure(Workspace.open(workspace, create=False), concepts or ())
        config, chosen = changed(work.config, told), work.concepts or []
    pairs: list[tuple[str, str, float]] = []
    if confusable:
        from flows.inspection.relatives import confusable as alike

        if concepts:
            raise ConfigError(f"--confusable {confusable} chooses the concepts; name none beside it.")
        pairs = alike(config, confusable)
        chosen = list(dict.fromkeys(name for pair in pairs for name in pair[:2]))
        if not as_json:
            say(alike_line(pairs))
    known = [*config.method, *config.controls.methods]
    if against and against not in known:
        raise ConfigError(f"--against {against}: it is not among the methods that are compared: {', '.join(known)}.")
    if leave_out:
        _left_out(config, workspace, chosen, leave_out, device, threads, verbose, as_json, new)
        return
    opened, result = carry_out(config, workspace, chosen or None, device, threads, verbose, as_json, keep_config=new)
    for what, why in result["failures"]:
        typer.echo(f"FAILED  {what}: {why}", err=True)
    from saeuron.pages.pictures import method_plot
    from storage import text
    from tasks.compare import side_by_side

    beside = {name for c in {e["concept"] for e in result["evaluations"]} for name in controls(config, c)}
    found, costs = side_by_side(opened, config, result, against, beside, device, threads if cost else 0)
    rows = [("unedited", found.unedited), *((e.method, e.figures) for e in found.entries)]
    removed = text.few([*dict.fromkeys(e["concept"] for e in result["evaluations"])])
    method_plot(
        [(name, {m: (d.value, d.low, d.high) for m, d in figures.items()}) for name, figures in rows],
        f"removed: {removed}; test images, 95 % intervals",
        out,
    )
    if as_json:
        told_pairs = {"confusable": pairs} if confusable else {}
        about = {"costs": {name: asdict(c) for name, c in costs.items()}, **told_pairs}
        say(json.dumps({**asdict(found), **about}, indent=2))
    else:
        say(page(found, costs, beside, removed))
        say(f"wrote {out}")
        best = next(e.method for e in found.entries if e.method not in beside)
        one = result["evaluations"][0]["concept"]
        then = command("generate", "A PROMPT", "--remove", f"{one}.{best}", "--out", "image.png", workspace=opened)
        say(f"next: {then}")
    if result["failures"]:
        raise typer.Exit(1)


def _left_out(
    config: Any,
    workspace: Path,
    concepts: list[str],
    count: int,
    device: str,
    threads: int,
    verbose: bool,
    as_json: bool,
    new: bool,
) -> None:
    """Compare SAEs that saw the concepts with those that did not."""
    from flows.config import changed
    from flows.display import on_prefect
    from flows.environment import check_server, prepare
    from flows.hints import command
    from flows.work import check_all
    from saeuron import methods
    from saeuron.errors import ConfigError
    from storage import Workspace

    if new:
        raise ConfigError(
            f"--leave-out: {workspace} has no run yet; expected one, whose captures it takes: saeuron run"
        )
    opened = Workspace.open(workspace, create=False)
    prepare(opened.root, verbose)
    check_server()
    from flows.measure.leave_out import check, leave_out_flow, lines

    wanted = concepts or list(config.tune.concepts or ())
    domains = check(config, wanted, config.method[0], count)
    untrained = methods.control(config.method[0], "untrained")
    config = changed(config, [f"controls.methods=[{untrained}]", "controls.concepts=null"])
    check_all(config, device, opened)
    with on_prefect(console_for(as_json)):
        made = leave_out_flow(config, str(opened.root), domains, config.method[0], count, device, threads)
    if as_json:
        say(json.dumps({name: made[name] for name in ("leave_out", "summary", "rows", "picture")}, indent=2))
        return
    say("\n".join(lines(made)))
    say(f"picture: {opened.root / made['picture']}")
    query = "select domain, kind, metric, value, low, high from left_out"
    say(f"next: {command('sql', query, workspace=opened)}")


def alike_line(pairs: Sequence[tuple[str, str, float]]) -> str:
    """The pairs that --confusable chose."""
    from storage import text

    named = ", ".join(f"{a} and {b} ({100 * iou:.0f} %)".replace(" ", text.NO_BREAK) for a, b, iou in pairs)
    return text.filled(f"pairs that the renderer draws most alike (overlap of their templates): {named}")


def page(found: "Contest", costs: Mapping[str, "Cost"], controls: set[str], removed: str) -> str:
    """The tables as text."""
    from flows.summary import counted, text_table
    from storage import text

    def named(method: str) -> str:
        return f"{method} *" if method in controls else method

    header = ["method", "UA", "IRA", "CRA", "mean", "difference"]
    rows: list[dict[str, Any]] = []
    for name, figures, difference in (
        ("unedited", found.unedited, None),
        *((named(e.method), e.figures, e.difference) for e in found.entries),
    ):
        row = {metric: _interval(figures[metric]) for metric in header[1:4]}
        rows.append({"method": name, **row, "mean": figures["mean"].value, "difference": _difference(difference)})
    images = max(e.figures["mean"].n_images for e in found.entries)
    lines = [text_table(header, rows), ""]
    lines.append(
        text.filled(
            f"Percent with 95 % intervals, on {counted(images, 'test image')} of each method without {removed}; mean: "
            f"(UA + IRA + CRA) / 3; domains count alike; difference: of the mean to {found.against}, "
            "paired by image. * control."
        )
    )
    lines += [text.filled(verdict(found, controls)), ""]
    drawn: list[dict[str, Any]] = [{"method": "unedited", "CRA-target": _interval(found.unedited["CRA-target"])}]
    for e in found.entries:
        about = costs[e.method]
        picture: dict[str, Any] = {"method": named(e.method), "CRA-target": _interval(e.figures["CRA-target"])}
        picture["odd"] = about.odd
        for column, distance in (("Frechet", about.frechet), ("(Frechet)", about.frechet_control)):
            picture[column] = None if distance is None else f"{distance:.3g}"
        drawn.append(picture)
    lines += [
        text_table(["method", "CRA-target", "odd", "Frechet", "(Frechet)"], drawn),
        "",
        text.filled(
            "CRA-target: CRA of the images asked to show a removed concept; odd: percent of these that do not look "
            "like the model's own; Frechet: distance of the images not asked to show it from the same unedited, in "
            "brackets of two seeds unedited, means over concepts."
        ),
        "",
    ]
    costly = ["method", "seconds", "shared s", "tuning images", "kB", "time per image"]
    lines.append(
        text_table(
            costly,
            [
                {
                    "method": named(name),
                    "seconds": f"{c.seconds:.0f}",
                    "shared s": f"{c.shared:.0f}",
                    "tuning images": c.images,
                    "kB": f"{c.bytes / 1000:.0f}",
                    "time per image": f"{c.overhead:.2f} x" if c.overhead else "-",
                }
                for name, c in costs.items()
            ],
        )
    )
    lines += [
        "",
        text.filled(
            "Means over concepts; seconds: to learn and tune, as the machine was then; shared: capture, SAEs and "
            "scores, once for all concepts; tuning images: generated to learn and to choose; time per image: to plain "
            "generation, in one process."
        ),
        "",
        "What images asked to show a removed concept become:",
    ]
    for entry in found.entries:
        every = entry.becomes
        left = {c: seen for c, seen in every.items() if len(every) <= MANY or not seen or dict(seen).get(c)}
        if len(left) < len(every):
            gone = f"{len(every) - len(left)} of {counted(len(every), 'concept')}"
            lines.append(
                text.filled(f"  {entry.method}: no image shows {gone} any more (--json: what it shows)", "    ")
            )
        for concept, seen in left.items():
            shown = ", ".join(f"{name} {100 * part:.0f} %" for name, part in seen[:NAMED]) or "not judged"
            lines.append(text.filled(f"  {concept} by {entry.method}: {shown}", "    "))
    return "\n".join(lines)


def verdict(found: "Contest", controls: set[str]) -> str:
    """Text that says which methods are better or worse than the reference method, and which do not differ."""
    mine = [e for e in found.entries if e.method not in controls and e.difference is not None]
    better = [e.method for e in mine if e.difference and e.difference.beats]
    worse = [e.method for e in mine if e.difference and e.difference.loses]
    same = [e.method for e in mine if e.method not in (*better, *worse)]
    if not mine:
        return "One method alone: there is nothing to compare it with but controls."
    said = [f"{found.against} against the others:"]
    for names, words in ((better, "better"), (worse, "worse"), (same, "not told apart")):
        if names:
            said.append(f"{words}: {', '.join(names)};")
    return " ".join(said).rstrip(";:") + "."


def _interval(figure: "Difference") -> str:
    from saeuron.figures.words import interval

    return interval(figure.value, figure.low, figure.high)


def _difference(figure: "Difference | None") -> str:
    if figure is None or figure.value is None:
        return ""
    shown = f"{100 * figure.value:+.1f}"
    if figure.low is None or figure.high is None:
        return shown
    return f"{shown} ({100 * figure.low:+.1f} {100 * figure.high:+.1f})"
