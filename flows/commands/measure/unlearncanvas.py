"""`saeuron unlearncanvas`: the benchmark of styles and objects (2402.11846)."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import WORKSPACE, Commands, Json, WorkspaceOption, folder_out, say

app = Commands(
    invoke_without_command=True,
    no_args_is_help=False,
    help="Compare with the published table of UnlearnCanvas.",
)
SIZES = {"style": 50, "object": 20}
"""Concepts that the benchmark removes, one at a time."""


@app.callback()
def unlearncanvas(context: typer.Context, workspace: WorkspaceOption = WORKSPACE, as_json: Json = False) -> None:
    """Print the published table of UnlearnCanvas with the figures of the workspace in it.

    Example: saeuron unlearncanvas
    """
    if context.invoked_subcommand:
        return
    from flows.hints import command
    from flows.summary import text_table
    from storage import Workspace, text
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    config = runs.remembered(opened)
    newest = {(m.summary["concept"], m.summary["method"]): m.summary for m in opened.artifacts("evaluation")}
    rows = table(newest.values())
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    header = ["domain", "method", "UA", "IRA", "CRA", "mean", "of"]
    say(text_table(header, rows, wrapped=["method"], optional=["of"]))
    say("")
    for line in (
        "Percent; mean: (UA + IRA + CRA) / 3. Published rows are as their papers print them, none was run again; the "
        "same name carries different figures in different papers.",
        f"Yours: means over the removed concepts on {config.model.spec}, +- half of the 95 % interval, which is that "
        "of the images: other concepts may come out otherwise. They are comparable only on the benchmark's own model, "
        "classifiers, prompts and seeds, and with all of its concepts (docs/sd15.md).",
    ):
        say(text.filled(line))
    say(f"next: {command('sql', 'select * from metrics', workspace=opened)}")


def table(evaluations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Published rows and those of these evaluations, by domain, the best mean first."""
    from saeuron.figures.published import PUBLISHED

    rows = [
        {"domain": p.domain, "method": f"{p.method} ({p.note})" if p.note else p.method, "UA": _told(p.ua),
         "IRA": _told(p.ira), "CRA": _told(p.cra), "mean": f"{p.mean:.2f}", "of": "published"}
        for p in PUBLISHED
    ]  # fmt: skip
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for e in evaluations:
        groups.setdefault((e["domain"], e["method"]), []).append(e)
    for (domain, method), mine in groups.items():
        figures = {name: _mean([e["metrics"].get(name) for e in mine]) for name in ("UA", "IRA", "CRA")}
        values = [e["value"] for e in mine]
        mean = None if None in values else 100 * sum(values) / len(values)
        told = {name: _told(*figure) for name, figure in figures.items()}
        size = f" of {SIZES[domain]}" if domain in SIZES else ""
        row = {"domain": domain, "method": f"yours: {method}", **told, "mean": _told(mean)}
        rows.append(row | {"of": f"{len(mine)}{size} concepts"})
    order = {domain: i for i, domain in enumerate(dict.fromkeys(str(row["domain"]) for row in rows))}
    return sorted(
        rows, key=lambda row: (order[row["domain"]], row["mean"] == "-", -float(row["mean"].replace("-", "0")))
    )


def _mean(figures: list[Mapping[str, Any] | None]) -> tuple[float | None, float | None]:
    """(mean, half of its interval) of the same figure of several removals, in percent; None where one lacks it."""
    known = [f for f in figures if f is not None and f["value"] is not None]
    if not known or len(known) < len(figures):
        return None, None
    # Images of different removals are taken as independent, so that half-widths add as squares.
    half = math.sqrt(sum(((f["high"] - f["low"]) / 2) ** 2 for f in known)) / len(known)
    return 100 * sum(f["value"] for f in known) / len(known), 100 * half


def _told(value: float | None, half: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if half is None else f"{value:.1f} +-{half:.1f}"


@app.command("convert")
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="One of the benchmark's two classifiers, a .pth file.")],
    out: Annotated[
        Path, typer.Option(callback=folder_out, help="The folder to write, for the judge `unlearncanvas:FOLDER`.")
    ],
) -> None:
    """Convert a classifier of the benchmark.

    Only its weights are read; they are written as safetensors.

    Example: saeuron unlearncanvas convert style50_cls.pth --out heads
    """
    from flows.hints import command
    from saeuron.files import sha256
    from saeuron.judges import unlearncanvas as heads
    from tasks.exchange.cards import check_empty

    check_empty(out, {f"{name}.safetensors" for name in heads.HEADS})
    path = heads.convert(checkpoint, out)
    say(f"{path}: {len(heads.HEADS[path.stem])} classes of {path.stem}")
    say(f"sha256 {sha256(path)}")
    other = next(name for name in heads.HEADS if name != path.stem)
    if not (out / f"{other}.safetensors").exists():
        say(f"next: {command('unlearncanvas', 'convert', f'{other.upper()}.pth', '--out', out)}")
    else:
        settings = [w for name in heads.HEADS for w in ("--set", f"domains.{name}.judge=unlearncanvas:{out}")]
        say(f"next: {command('run', 'sd15_style', *settings, '--plan')}")


@app.command("export")
def export(
    concept: Annotated[str, typer.Argument(help="The concept that was removed.")],
    out: Annotated[Path, typer.Option(callback=folder_out, help="The folder to write images to.")],
    method: Annotated[str, typer.Option(help="Method of the removal.")] = "saeuron",
    unedited: Annotated[bool, typer.Option("--unedited", help="Write the images without the removal.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Write test images under the benchmark's names.

    The benchmark's own scripts can then score them. Images without a style are also written as Seed_Images.

    Example: saeuron unlearncanvas export Crayon --out Crayon
    """
    from flows.hints import command
    from saeuron.errors import UnknownName
    from storage import Workspace, text
    from tasks.exchange import benchmark
    from tasks.exchange.cards import check_empty

    opened = Workspace.open(workspace, create=False)
    found = sorted(opened.artifacts("evaluation"), key=lambda m: m.created)
    mine = [m for m in found if (m.summary["concept"], m.summary["method"]) == (concept, method)]
    if not mine:
        known = {m.summary["concept"] for m in found if m.summary["method"] == method}
        raise UnknownName(f"concept evaluated with {method}", concept, known)
    check_empty(out, {file.name for file in out.glob("*.jpg")})
    names = benchmark.export(opened, mine[-1].inputs["unedited" if unedited else "edited"], out)
    say(f"{len(names)} files in {out}, such as {names[0]}")
    if lacks := wanting(names):
        say(text.filled(f"note: {lacks}"))
    beside = ("export", concept, "--method", method, "--unedited", "--out", f"{out}-unedited")
    say(f"next: {command('unlearncanvas', *(() if unedited else beside), workspace=opened)}")


def wanting(names: Sequence[str]) -> str:
    """A note on files that the benchmark's script opens and that are missing; empty if there are none."""
    from tasks.exchange.benchmark import PHOTOGRAPHS, read_by_script

    wanted, here = read_by_script(), {*names}
    missing = [name for name in wanted if name not in here]
    if not missing:
        return ""
    told = f"the benchmark's accuracy.py opens {len(wanted)} files and stops at {missing[0]}, the first of "
    told += f"{len(missing)} that are missing."
    if not any(name.startswith(PHOTOGRAPHS) for name in names):
        told += f" None is named {PHOTOGRAPHS}_OBJECT_seedN.jpg: no test prompt is without a style."
    return told
