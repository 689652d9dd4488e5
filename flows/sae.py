"""What the commands on SAEs say: an SAE's fields, two SAEs side by side, and what to do next."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.hints import command
from flows.summary import text_table
from tasks.exchange.interchange import Found, described, measured

_BAR = 22


def info(found: Found, workspace: Path) -> dict[str, Any]:
    """An SAE's fields, and the page that shows them."""
    fields = described(found)
    norm, threshold = fields["decoder_norm"], fields.get("threshold")
    rows = {
        "sae": fields["sae"],
        "source": fields["source"],
        "format": fields["format"],
        "variant": fields["variant"],
        "activation": fields["activation"],
        "width D": fields["width"],
        "latents N": fields["n_latents"],
        "k": fields["k"] or None,
        "hookpoint": fields["hookpoint"] or None,
        "dtype": fields["dtype"],
        "size": f"{fields['bytes'] / 1e6:.2f} MB",
        "decoder norms": f"{norm['mean']:.4g} ({norm['minimum']:.4g} to {norm['maximum']:.4g})",
        "thresholds": f"{threshold['minimum']:.4g} to {threshold['maximum']:.4g}" if threshold else None,
        "FVU": None if fields["fvu"] is None else f"{fields['fvu']:.4f}",
        "L0": None if fields["l0"] is None else f"{fields['l0']:.2f}",
        "dead": None if fields["dead"] is None else f"{fields['dead']:.1%}",
        "capture": fields["capture"],
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items() if value is not None]
    lines += _notes(fields["notes"])
    if found.manifest:
        again = command("sae", "export", found.label, "--format", "saelens", "--out", "DIR", workspace=workspace)
    else:
        at = fields["hookpoint"] or "PATH"
        again = command("sae", "import", found.label, "--hookpoint", at, workspace=workspace)
    lines.append(f"next: {again}")
    return {"fields": fields, "lines": lines}


def brought(fields: dict[str, Any], workspace: Path) -> list[str]:
    """What an import made."""
    others = fields["others"]
    then = ("compare", fields["id"], others[0]) if others else ("info", fields["id"])
    return [
        f"imported {fields['source']} ({fields['format']}) as {fields['id']}",
        f"{fields['variant']}, {fields['activation']}: D {fields['width']}, N {fields['n_latents']}, "
        f"k {fields['k'] or 'not known'}",
        f"at {fields['hookpoint']}",
        *_notes(fields["notes"]),
        f"in {fields['folder']}",
        f"in a run: --set {shlex.quote('saes=' + json.dumps({fields['hookpoint']: fields['id']}))}",
        f"next: {command('sae', *then, workspace=workspace)}",
    ]


def exported(found: Found, format: str, files: list[str]) -> list[str]:
    """What an export wrote."""
    folder = Path(files[0]).parent
    lines = [f"exported {found.label} as {format}", *(f"wrote {file}" for file in files)]
    if found.sae.info.activation == "threshold" and format == "saelens":
        lines.append("note: SAELens knows it as jumprelu, with a threshold for each latent")
    lines.append("the card names no license: add one before it is published")
    return [*lines, f"next: {command('sae', 'info', folder)}"]


def compared(workspace: Path, a: Found, b: Found, rows: int) -> dict[str, Any]:
    """Two SAEs side by side, and the page that shows them."""
    from saeuron.sae.interchange.comparison import MATCH, differences, one_way

    ways = {"A in B": one_way(a.sae, b.sae), "B in A": one_way(b.sae, a.sae)}
    apart = differences(a.sae, b.sae)
    found = measured(workspace, (a, b), rows)
    lines = [f"A  {a.label}", f"B  {b.label}", ""]
    table = [
        {
            "": name,
            "latents": sum(way.histogram),
            "mean max cosine": f"{way.mean:.4f}",
            f"above {MATCH}": f"{way.found:.1%}",
            "encoder cosine": f"{way.encoder:.4f}",
        }
        for name, way in ways.items()
    ]
    lines += [text_table(list(table[0]), table), ""]
    lines += _histogram({name: way.histogram for name, way in ways.items()})
    if apart is not None:
        equal = not any(apart.values())
        worst = ", ".join(f"{name} {value:.3g}" for name, value in apart.items())
        lines += ["", "the same numbers" if equal else f"largest differences: {worst}"]
    quality = None
    if found is not None:
        both = dict(zip(("A", "B"), found.quality, strict=True))
        quality = {"capture": found.capture, "rows": found.rows, "trained_on_it": found.trained}
        quality |= {name: q._asdict() for name, q in both.items()}
        figures = [
            {"": name, "FVU": f"{q.fvu:.4f}", "L0": f"{q.l0:.2f}", "silent": f"{q.never:.1%}"}
            for name, q in both.items()
        ]
        lines += ["", text_table(list(figures[0]), figures)]
        lines.append(f"on the same {found.rows} rows of {found.capture}")
        if found.trained:
            lines.append("(rows of its training, for an SAE that was trained in this workspace)")
    else:
        lines += ["", "no FVU or L0: the workspace holds no activations of a hookpoint that both name"]
    lines.append(f"next: {command('sae', 'info', b.label, workspace=workspace)}")
    return {
        "A": a.label,
        "B": b.label,
        "ways": {name: asdict(way) for name, way in ways.items()},
        "differences": apart,
        "quality": quality,
        "lines": lines,
    }


def _histogram(columns: dict[str, tuple[int, ...]]) -> list[str]:
    """Latents by their largest cosine, a line for each tenth, a bar for each column."""
    most = max(max(counts) for counts in columns.values())
    lines = ["cosine " + "".join(f"  {name:>9}  {'':{_BAR}}" for name in columns).rstrip()]
    steps = len(next(iter(columns.values())))
    for i in range(steps):
        bars = ((counts[i], "#" * -(-counts[i] * _BAR // max(most, 1))) for counts in columns.values())
        line = f"{i / steps:.1f}-{(i + 1) / steps:.1f}" + "".join(f"  {count:>9}  {bar:{_BAR}}" for count, bar in bars)
        lines.append(line.rstrip())
    return lines


def _notes(notes: list[str]) -> list[str]:
    return [f"note: {note}" for note in notes]
