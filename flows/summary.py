"""What a command prints at its end: tables, paths, the next command."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flows.hints import command
from saeuron.config import RunConfig
from storage import Workspace, text
from storage.published import published_name
from storage.verify import damage
from tasks.registry import concepts, runs

METRICS = ("UA", "IRA", "CRA", "CRA-target")


def text_table(
    header: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    wrapped: Collection[str] = (),
    optional: Sequence[str] = (),
) -> str:
    """A table that fits the terminal, text to the left and numbers to the right; see `storage.text.table`."""
    cells = [[_cell(row.get(name)) for name in header] for row in rows]
    right = [i for i, name in enumerate(header) if all(_is_number(row.get(name)) for row in rows)]
    return text.table(header, cells, right=right, wrapped=wrapped, optional=optional)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{100 * value:.1f}"
        case _:
            return str(value)


def closing(workspace: Workspace, config: RunConfig, result: Mapping[str, Any]) -> str:
    """Text at the end of a run: figures, counts, paths, the next command."""
    rows, lines = [], []
    settings = {(r["concept"], r["method"]): r["settings"] for r in result["removals"]}
    for e in result["evaluations"]:
        names = (e["concept"], e["method"])
        row: dict[str, Any] = {"domain": e["domain"], "removed": e["concept"], "method": e["method"]}
        row["settings"] = told(settings[names])
        for name in METRICS:
            figure = e["metrics"].get(name)
            row[name] = figure["value"] if figure else None
            if name in ("UA", "IRA", "CRA"):
                row[f"({name})"] = figure["unedited"] if figure else None
        row["mean"] = e["value"]
        rows.append(row)
    if rows:
        header = ["domain", "removed", "method", "settings", "UA", "(UA)", "IRA", "(IRA)", "CRA", "(CRA)", "CRA-target"]
        header.append("mean")
        # One method needs no column of its own: the means below name it.
        several = len({r["method"] for r in rows}) > 1
        optional = ("CRA-target", "settings", "domain") if several else ("method", "CRA-target", "settings", "domain")
        lines += [text_table(header, rows, optional=optional), ""]
        for domain, method in dict.fromkeys((r["domain"], r["method"]) for r in rows):
            mine = [r["mean"] for r in rows if (r["domain"], r["method"]) == (domain, method)]
            values = [value for value in mine if value is not None]
            if values:
                mean = 100 * sum(values) / len(values)
                lines.append(f"{domain} by {method}: mean over {counted(len(values), 'removal')} {mean:.1f}")
        lines += [
            "Percent, on test prompts; in brackets the unedited model on the same prompts and seeds.",
            "mean: (UA + IRA + CRA) / 3.",
            "",
        ]
    for what, why in result["failures"]:
        lines.append(f"FAILED  {what}: {why}")
    counts = result["counts"]
    lines.append(f"steps: {counts['made']} made, {counts['cached']} found in place, {counts['failed']} failed")
    lines.append(f"workspace: {workspace.address}")
    for e in result["evaluations"]:
        stem = published_name(e["concept"], e["method"])
        kinds = [kind for kind in ("sheet", "scores") if (workspace.pictures / f"{stem}_{kind}.png").exists()]
        drawn = f", pictures/{stem}_{{{','.join(kinds)}}}.png" if kinds else ""
        lines.append(f"  removals/{stem}.safetensors{drawn}")
    if result["failures"]:
        lines.append("next: fix the cause and run the same command again; only what failed is done")
    elif result["evaluations"]:
        first = result["evaluations"][0]
        chosen = first["concept"] if len(config.method) == 1 else f"{first['concept']}.{first['method']}"
        example = _example(config, first["domain"], first["concept"])
        then = command("generate", example, "--remove", chosen, "--out", "image.png", workspace=workspace)
        lines.append(f"next: {then}")
    return "\n".join(lines)


def told(settings: Mapping[str, Any]) -> str:
    """The settings of a removal as short text."""
    short = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name} {value}" for name, value in short.items())


def counted(count: int, noun: str) -> str:
    """`1 removal`, `2 removals`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _example(config: RunConfig, domain: str, concept: str) -> str:
    """A training sentence that asks for the concept, and for a concept of each other domain that it names."""
    from saeuron.prompts import fill, placeholders

    names = {d: c.concepts[0] for d, c in config.domains.items()} | {domain: concept}
    found = [t for t in config.prompts.templates.get("train", ()) if domain in placeholders(t, config.domains)]
    return fill(max(found, key=lambda t: len(placeholders(t, config.domains))), names) if found else concept


def concept_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """One row per concept and method: how far it is, its newest figures. A concept without a removal has one row."""
    config = runs.remembered(workspace)
    added = concepts.joined(workspace, config)
    scored = {m.summary["concept"] for m in workspace.artifacts("score")}
    methods: dict[str, list[str]] = {}
    for manifest in workspace.artifacts("removal"):
        names = methods.setdefault(manifest.summary["concept"], [])
        names += [manifest.summary["method"]] if manifest.summary["method"] not in names else []
    newest: dict[tuple[str, str], Any] = {}
    for manifest in sorted(workspace.artifacts("evaluation"), key=lambda m: m.created):
        newest[manifest.summary["concept"], manifest.summary["method"]] = manifest.summary["metrics"]
    rows = []
    for domain, d in config.domains.items():
        for name in [*d.concepts, *(a.name for a in added if a.domain == domain)]:
            for method in sorted(methods.get(name, [])) or [""]:
                figures = newest.get((name, method), {})
                row: dict[str, Any] = {
                    "domain": domain,
                    "concept": name,
                    "scored": name in scored,
                    "method": method or None,
                }
                rows.append(row | {m: figures.get(m, {}).get("value") for m in ("UA", "IRA", "CRA")})
    return rows


def concept_page(workspace: Workspace, name: str) -> dict[str, Any]:
    """Everything known about one concept."""
    row = next(r for r in concept_rows(workspace) if r["concept"] == name)
    lines = [f"{name} ({row['domain']})", f"scored: {'yes' if row['scored'] else 'no'}"]
    removals = [m for m in workspace.artifacts("removal") if m.summary["concept"] == name]
    for manifest in removals:
        s = manifest.summary
        lines.append(
            f"removal {manifest.id} by {s['method']}: {told(s['settings'])}, "
            f"{s['latents']} latents at {', '.join(s['hookpoints']) or 'no hookpoint'}"
        )
    evaluations = [m for m in workspace.artifacts("evaluation") if m.summary["concept"] == name]
    for manifest in evaluations:
        figures = [{"metric": k, **v} for k, v in manifest.summary["metrics"].items()]
        lines += ["", f"{manifest.id} by {manifest.summary['method']}, {manifest.summary['images']} images:"]
        lines.append(text_table(["metric", "value", "unedited", "low", "high"], figures))
    for method in dict.fromkeys(m.summary["method"] for m in removals):
        for kind in ("sheet", "scores"):
            path = workspace.pictures / f"{published_name(name, method)}_{kind}.png"
            if path.exists():
                lines.append(f"{kind}: {path}")
    if not removals:
        lines.append(f"next: {command('evaluate', name, workspace=workspace)}")
    return {**row, "removals": [m.id for m in removals], "evaluations": [m.id for m in evaluations], "lines": lines}


def status_page(workspace: Workspace, deep: bool) -> dict[str, Any]:
    """Artifacts by stage, their sizes, outdated removals, damage."""
    manifests = workspace.artifacts()
    rows = []
    for stage in sorted({m.stage for m in manifests}):
        mine = [m for m in manifests if m.stage == stage]
        size = sum(f.bytes for m in mine for f in m.files)
        rows.append(
            {
                "stage": stage,
                "artifacts": len(mine),
                "files": sum(len(m.files) for m in mine),
                "MB": f"{size / 1e6:.1f}",
            }
        )
    problems = workspace.problems()
    if deep:
        problems += [str(problem) for m in manifests for problem in damage(workspace, m.id, deep=True)]
    from storage import connect

    with connect(workspace) as views:
        found = views.execute("select concept from removals where outdated order by concept").fetchall()
    outdated = [concept for (concept,) in found]
    lines = [f"workspace: {workspace.address}", text_table(["stage", "artifacts", "files", "MB"], rows)]
    lines.append(f"outdated removals: {', '.join(outdated) if outdated else 'none'}")
    lines += [f"damaged: {p}" for p in problems] or [
        "damaged: none" + ("" if deep else " (sizes; --deep reads every byte)")
    ]
    if problems:
        # A damaged file of the right size would count as whole, so it has to be moved away before a run.
        lines.append(f"next: {command('verify', '--deep', '--repair', workspace=workspace)}")
    return {"stages": rows, "outdated": outdated, "problems": problems, "lines": lines}
