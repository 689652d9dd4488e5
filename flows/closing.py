"""The end of a run's output: figures, counts, paths, the next command."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from flows.hints import command
from flows.stages.tune import unsearched
from flows.summary import counted, text_table, told
from saeuron.config import RunConfig
from saeuron.figures.comparison import MIN_DIFFERING
from saeuron.figures.quality import FILE, ODD
from saeuron.figures.verdict import PICTURES_ODD, Verdict
from saeuron.figures.words import harm
from storage import Workspace, text
from storage.published import published_name

METRICS = ("UA", "IRA", "CRA", "CRA-target")
WORST = 8
"""Harmed concepts of one removal that are named; `saeuron concept show` names all."""
ODD_ASKED = "odd"
_COLUMNS = ["domain", "method", "mean", ODD_ASKED, "(odd)", "odd others", "(odd others)"]
_COLUMNS += ["Frechet", "(Frechet)", "CLIP", "(CLIP)"]
_OPTIONAL = ["(CLIP)", "(odd others)", "(odd)", "(Frechet)"]
"""Columns of the table of means, and those that go first where it does not fit."""


def closing(workspace: Workspace, config: RunConfig, result: Mapping[str, Any]) -> str:
    """Text at the end of a run: figures, verdicts, counts, paths, the next command."""
    lines = _figures(result)
    # Controls have figures; what follows is about removals to use.
    evaluations = to_use(config, result)
    one = len({e["method"] for e in evaluations}) == 1
    for e in evaluations:
        # One method needs no name here: the means above name it.
        lines += outcome(e, e["concept"] if one else f"{e['concept']} by {e['method']}", workspace)
    if evaluations:
        lines += [text.filled(line) for line in _compared(result["comparisons"]) + _without_control(config, result)]
        lines.append("")
        if note := unsearched(config):
            lines.append(text.filled(note))
    lines += [text.filled(f"FAILED  {what}: {why}") for what, why in result["failures"]]
    counts = result["counts"]
    lines.append(f"steps: {counts['made']} made, {counts['cached']} found in place, {counts['failed']} failed")
    if evaluations:
        lines.append(f"verdicts: {verdicts(evaluations)}")
    lines.append(f"workspace: {workspace.address}")
    for e in evaluations:
        stem = published_name(e["concept"], e["method"])
        kinds = [kind for kind in ("sheet", "scores") if (workspace.pictures / f"{stem}_{kind}.png").exists()]
        drawn = f", pictures/{stem}_{{{','.join(kinds)}}}.png" if kinds else ""
        lines.append(text.filled(f"  removals/{stem}.safetensors{drawn}", "    "))
    if result["failures"]:
        lines.append("next: fix the cause and run the same command again; only what failed is done")
    elif evaluations:
        first = evaluations[0]
        chosen = first["concept"] if len(config.method) == 1 else f"{first['concept']}.{first['method']}"
        example = _example(config, first["domain"], first["concept"])
        then = command("generate", example, "--remove", chosen, "--out", "image.png", workspace=workspace)
        lines += [f"next: {command('report', workspace=workspace)}", f"next: {then}"]
    return "\n".join(lines)


def to_use(config: RunConfig, result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The evaluations of removals to use; those of controls are left out."""
    return [e for e in result["evaluations"] if e["method"] in config.method]


def _figures(result: Mapping[str, Any]) -> list[str]:
    """The table of figures, means over removals, and what they are."""
    rows = []
    settings = {(r["concept"], r["method"]): r["settings"] for r in result["removals"]}
    for e in result["evaluations"]:
        row: dict[str, Any] = {"domain": e["domain"], "removed": e["concept"], "method": e["method"]}
        row["settings"] = told(settings[e["concept"], e["method"]])
        for name in METRICS:
            figure = e["metrics"].get(name)
            row[name] = figure["value"] if figure else None
            if name in ("UA", "IRA", "CRA"):
                row[f"({name})"] = figure["unedited"] if figure else None
        rows.append(row | {"mean": e["value"], "verdict": e["verdict"]})
    if not rows:
        return []
    header = ["domain", "removed", "method", "settings", "UA", "(UA)", "IRA", "(IRA)", "CRA", "(CRA)", "CRA-target"]
    header += ["mean", "verdict"]
    optional = ["CRA-target", "settings", "domain", "(UA)", "(CRA)", "(IRA)"]
    if len({r["method"] for r in rows}) == 1:
        # One method needs no column of its own: the means below name it.
        optional.insert(0, "method")
    lines = [text_table(header, rows, wrapped=["removed"], optional=optional), ""]
    lines += [
        "Percent, on test prompts; mean: (UA + IRA + CRA) / 3.",
        "In brackets: the unedited model, on the same prompts and seeds.",
    ]
    return [*lines, "", *_families(result), ""]


def _families(result: Mapping[str, Any]) -> list[str]:
    """Means over the removals of each domain by each method, as a table; a line for each part that is detected."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for domain, method in dict.fromkeys((e["domain"], e["method"]) for e in result["evaluations"]):
        mine = [e["value"] for e in result["evaluations"] if (e["domain"], e["method"]) == (domain, method)]
        values = [value for value in mine if value is not None]
        rows[domain, method] = {"domain": domain, "method": method}
        rows[domain, method]["mean"] = sum(values) / len(values) if values else None
    parts: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    about: dict[str, dict[str, None]] = {}
    # Those of single files of prompts are in `quality` and on the pages: the table has one column a figure.
    every = [(e, q) for e in result["evaluations"] for q in e.get("quality", ())]
    kept = [(e, q) for e, q in every if not q["image_set"].startswith(FILE)]
    for key, found in _grouped(kept).items():
        domain, method, metric, column = key
        if column is None:
            for q in found:
                parts.setdefault((domain, method, metric, q["extractor"]), []).append(q)
            continue
        beside = "control" if metric == "Frechet distance" else "unedited"
        for name, of in ((column, "value"), (f"({column})", beside)):
            values = [q[of] for q in found if q[of] is not None]
            # Distances in features of several judges have no mean.
            one = len({q["extractor"] for q in found}) == 1
            mean = sum(values) / len(values) if values and one else None
            # A share is shown in percent, a distance or a score as it is.
            rows[domain, method][name] = mean if mean is None or metric == ODD else f"{mean:.3g}"
        if metric != ODD:
            about.setdefault(column, {}).update({f"{q['n']} images, {q['extractor']}": None for q in found})
    header = [name for name in _COLUMNS if any(name in row for row in rows.values())]
    lines = [text_table(header, [*rows.values()], wrapped=["domain", "method"], optional=_OPTIONAL), ""]
    said = {
        ODD_ASKED: "odd: percent of the images asked to show the concept that do not look like the model's own, "
        "whatever they show (unedited in brackets); odd others: of those not asked",
        "Frechet": "Frechet: distance of those not asked from the same unedited, in brackets of two seeds unedited "
        f"({'; '.join(about.get('Frechet', ()))})",
        "CLIP": f"CLIP: how well those not asked agree with their prompts ({'; '.join(about.get('CLIP', ()))})",
    }
    words = ["mean: over removals", *(words for name, words in said.items() if name in header)]
    lines.append(text.filled("; ".join(words) + "."))
    return lines + _detected(parts)


def _grouped(kept: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[tuple[Any, ...], list[Any]]:
    """{(domain, method, metric, column or None): figures of the removals}."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for e, q in kept:
        column = {"Frechet distance": "Frechet", "CLIP score": "CLIP"}.get(q["metric"])
        if q["metric"] == ODD:
            column = "odd others" if q["image_set"].startswith("not ") else ODD_ASKED
        groups.setdefault((e["domain"], e["method"], q["metric"], column), []).append(q)
    return groups


def _detected(parts: Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]]) -> list[str]:
    """How often each part is found, summed over removals."""
    lines = []
    for (domain, method, part, _), found in parts.items():
        now, then = (sum(int(q[name]) for q in found) for name in ("value", "unedited"))
        lines.append(text.filled(f"{domain} by {method}: {part} {now} found (unedited {then})"))
    return lines


def verdicts(evaluations: Iterable[Mapping[str, Any]]) -> str:
    """`2 hold, 1 weak, 1 failed`."""
    counts = Counter(e["verdict"] for e in evaluations)
    words = {"holds": "holds" if counts["holds"] == 1 else "hold"}
    return ", ".join(f"{counts[v]} {words.get(v, v)}" for v in get_args(Verdict) if counts[v])


def outcome(evaluation: Mapping[str, Any], name: str, workspace: Workspace, worst: int = WORST) -> list[str]:
    """The verdict on one removal, called `name`, and why; below it the concepts that it harms, the worst first."""
    said = f"{name}: {evaluation['verdict']}"
    if evaluation["reason"]:
        said += f". {evaluation['reason']}"
    harmed, others = evaluation["harmed"], evaluation["others"]
    if not harmed:
        unharmed = f"; harms none of {counted(others, 'other concept')} for certain" if others else ""
        return [text.filled(said + unharmed + _odd(evaluation))]
    named = [harm(h) for h in harmed[:worst]]
    if len(harmed) > worst:
        rest = command("concept", "show", evaluation["concept"], workspace=workspace)
        named.append(f"and {len(harmed) - worst} more: {rest}")
    listed = ", ".join(each.replace(" ", text.NO_BREAK) for each in named)
    return [text.filled(said + _odd(evaluation)), text.filled(f"  harms: {listed}", "    ")]


def _odd(evaluation: Mapping[str, Any]) -> str:
    """How many pictures look broken, if a judge can tell; labels alone do not show it."""
    if PICTURES_ODD in evaluation["reason"]:
        return ""
    for q in evaluation.get("quality", ()):
        if q["metric"] == ODD and not q["image_set"].startswith("not "):
            return f"; {100 * q['value']:.0f} % {PICTURES_ODD} (unedited {100 * q['unedited']:.0f})"
    return ""


def _compared(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each domain, method and control: whether the method beats the control, and by how much."""
    lines = []
    for each in comparisons:
        method, control = f"{each['domain']}: {each['method']}", each["control"]
        seen = f"{counted(len(each['concepts']), 'concept')}, {counted(each['n'], 'image')}"
        if each["difference"] is None:
            lines.append(f"{method} cannot be compared with {control}: an image was not judged ({seen})")
            continue
        points = 100 * each["difference"]
        if each["low"] is None:
            few = f"no interval: a metric has fewer than {MIN_DIFFERING} prompts; {seen}"
            lines.append(f"{method} cannot be told from {control}: {points:+.1f} points ({few})")
            continue
        low, high = 100 * each["low"], 100 * each["high"]
        interval = f"95 % {low:.1f} to {high:.1f}, {seen}"
        if each["beats"]:
            lines.append(f"{method} beats {control} by {points:.1f} points ({interval})")
            continue
        few = f"; only {counted(each['n_differ'], 'prompt')} differ" if low > 0 else ""
        worse = ", and is worse" if high < 0 else ""
        lines.append(f"{method} does not beat {control}{worse}: {points:+.1f} points ({interval}{few})")
    return lines


def _without_control(config: RunConfig, result: Mapping[str, Any]) -> list[str]:
    """A line that says what the figures do not show, where a method that reads an SAE was compared with no control."""
    from flows.stages.compare import controlled
    from saeuron import methods

    compared = {each["method"] for each in result["comparisons"]}
    alone = [name for name in controlled(config) if name not in compared]
    if not alone:
        return []
    own = [methods.control(name, methods.UNTRAINED) for name in alone]
    named = ", ".join(n for n, m in zip(own, alone, strict=True) if methods.get(n).like == m)
    of = f" of {', '.join(alone)}" if len(alone) < len(controlled(config)) or config.controls.methods else ""
    told = f"controls.methods: {named}" if named else "controls.methods"
    return [f"No control{of} was run: these figures do not show that trained latents matter ({told})."]


def _example(config: RunConfig, domain: str, concept: str) -> str:
    """A training sentence that asks for the concept, and for a concept of each other domain that it names."""
    from saeuron.prompts import fill, placeholders

    names = {d: c.concepts[0] for d, c in config.domains.items()} | {domain: concept}
    found = [t for t in config.prompts.templates.get("train", ()) if domain in placeholders(t, config.domains)]
    return fill(max(found, key=lambda t: len(placeholders(t, config.domains))), names) if found else concept
