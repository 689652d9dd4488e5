"""Text of the `sae` commands: an SAE's fields, and the next command."""

import json
import shlex
from pathlib import Path
from typing import Any

from flows.hints import command
from tasks.exchange.interchange import Found, described


def info(found: Found, workspace: Path) -> dict[str, Any]:
    """An SAE's fields, and the lines that show them."""
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
    """Lines about an SAE that was imported."""
    others = fields["others"]
    then = ("report", fields["id"], "--against", others[0]) if others else ("info", fields["id"])
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
    """Lines about an SAE that was exported."""
    folder = Path(files[0]).parent
    lines = [f"exported {found.label} as {format}", *(f"wrote {file}" for file in files)]
    if found.sae.info.activation == "threshold" and format == "saelens":
        lines.append("note: SAELens calls it jumprelu, with a threshold for each latent")
    lines.append("the card names no license: add one before it is published")
    return [*lines, f"next: {command('sae', 'info', folder)}"]


def _notes(notes: list[str]) -> list[str]:
    return [f"note: {note}" for note in notes]
