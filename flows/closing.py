"""What a run prints at its end: figures, counts, paths, the next command."""

from collections.abc import Mapping
from typing import Any

from flows.hints import command
from flows.summary import counted, text_table, told
from saeuron.config import RunConfig
from storage import Workspace
from storage.published import published_name

METRICS = ("UA", "IRA", "CRA", "CRA-target")


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


def _example(config: RunConfig, domain: str, concept: str) -> str:
    """A training sentence that asks for the concept, and for a concept of each other domain that it names."""
    from saeuron.prompts import fill, placeholders

    names = {d: c.concepts[0] for d, c in config.domains.items()} | {domain: concept}
    found = [t for t in config.prompts.templates.get("train", ()) if domain in placeholders(t, config.domains)]
    return fill(max(found, key=lambda t: len(placeholders(t, config.domains))), names) if found else concept
