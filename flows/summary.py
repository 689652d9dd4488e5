"""Pages that commands print: tables, a concept, the state of a workspace."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flows.hints import command
from storage import Workspace, text
from storage.manifests import Manifest
from storage.published import published_name
from storage.verify import damage
from tasks.registry import concepts, runs


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


def told(settings: Mapping[str, Any]) -> str:
    """The settings of a removal as short text."""
    short = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return " ".join(f"{name} {value}" for name, value in short.items())


def counted(count: int, noun: str) -> str:
    """`1 removal`, `2 removals`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
        newest[manifest.summary["concept"], manifest.summary["method"]] = manifest.summary
    rows = []
    for domain, d in config.domains.items():
        for name in [*d.concepts, *(a.name for a in added if a.domain == domain)]:
            for method in sorted(methods.get(name, [])) or [""]:
                about = newest.get((name, method), {})
                figures = about.get("metrics", {})
                row: dict[str, Any] = {
                    "domain": domain,
                    "concept": name,
                    "scored": name in scored,
                    "method": method or None,
                }
                row |= {m: figures.get(m, {}).get("value") for m in ("UA", "IRA", "CRA")}
                rows.append(row | {"verdict": about.get("verdict")})
    return rows


def concept_page(workspace: Workspace, name: str) -> dict[str, Any]:
    """Everything known about one concept."""
    row = next(r for r in concept_rows(workspace) if r["concept"] == name)
    lines = [f"{name} ({row['domain']})", f"scored: {'yes' if row['scored'] else 'no'}"]

    def order(manifest: Manifest) -> tuple[bool, Any]:
        """Removals to use before controls, which are not published; older ones first."""
        file = f"{published_name(name, manifest.summary['method'])}.safetensors"
        return not (workspace.removals / file).exists(), manifest.created

    removals = sorted((m for m in workspace.artifacts("removal") if m.summary["concept"] == name), key=order)
    for manifest in removals:
        s = manifest.summary
        where = ", ".join(s["hookpoints"]) or "no hookpoint"
        about = f"{told(s['settings'])}, {counted(s['latents'], 'latent')} at {where}"
        if read := s.get("latents_read"):
            about += f", {counted(read, 'latent')} read to decide where to act"
        lines.append(text.filled(f"removal {manifest.id} by {s['method']}: {about}"))
    evaluations = sorted((m for m in workspace.artifacts("evaluation") if m.summary["concept"] == name), key=order)
    for manifest in evaluations:
        lines += ["", *_evaluation(manifest)]
    for method in dict.fromkeys(m.summary["method"] for m in removals):
        for kind in ("sheet", "scores"):
            path = workspace.pictures / f"{published_name(name, method)}_{kind}.png"
            if path.exists():
                lines.append(f"{kind}: {path}")
    if not removals:
        lines.append(f"next: {command('evaluate', name, workspace=workspace)}")
    return {**row, "removals": [m.id for m in removals], "evaluations": [m.id for m in evaluations], "lines": lines}


def _evaluation(manifest: Manifest) -> list[str]:
    """Verdict, figures and damage of one evaluation."""
    s = manifest.summary
    lines = [text.filled(f"{manifest.id} by {s['method']}, {counted(s['images'], 'image')}; figures in percent:")]
    # Those of earlier versions have no verdict.
    if "verdict" in s:
        lines.append(
            text.filled(f"verdict: {s['verdict']}. {s['reason']}" if s["reason"] else f"verdict: {s['verdict']}")
        )
    figures = [{"metric": k, **v} for k, v in s["metrics"].items()]
    lines.append(text_table(["metric", "value", "unedited", "low", "high"], figures))
    if harmed := s.get("harmed"):
        lines.append(f"harms {len(harmed)} of {counted(s['others'], 'other concept')}, the worst first:")
        names = {"before": "unedited", "after": "removed", "low": "lost at least", "high": "at most", "n": "images"}
        rows = [{names.get(name, name): value for name, value in h.items()} for h in harmed]
        header = ["harmed", "domain", *names.values()]
        lines.append(text_table(header, rows, wrapped=["harmed"], optional=["domain", "images"]))
    elif s.get("others"):
        lines.append(f"harms none of {counted(s['others'], 'other concept')} for certain")
    return lines


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
    lines.append(text.filled(f"outdated removals: {', '.join(outdated) if outdated else 'none'}"))
    lines += [text.filled(f"damaged: {p}") for p in problems] or [
        "damaged: none" + ("" if deep else " (sizes; --deep reads every byte)")
    ]
    if problems:
        # A damaged file of the right size would count as whole, so it has to be moved away before a run.
        lines.append(f"next: {command('verify', '--deep', '--repair', workspace=workspace)}")
    return {"stages": rows, "outdated": outdated, "problems": problems, "lines": lines}
