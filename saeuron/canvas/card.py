"""Canvas's model card, written from the records that lie beside its weights."""

import json
from pathlib import Path
from typing import Any

from saeuron.canvas.vocabulary import OBJECTS, STYLES

TRAINING, FIGURES, CARD = "training.json", "figures.json", "README.md"


def write_card(folder: Path) -> None:
    """Write README.md of a weights folder; figures are left out where none were measured on these weights."""
    training = json.loads((folder / TRAINING).read_text())
    config = training["config"]
    seen = f"{training['images_seen']:,}" + ("" if training["complete"] else " so far; training is not complete")
    lines = [
        "# Canvas",
        "",
        "A small Stable Diffusion pipeline (UNet2DConditionModel with cross-attention, CLIPTextModel, DDIM; an exact",
        "pixel unshuffle in place of a VAE) that draws 32 x 32 images of an object in a style. It ships with saeuron,",
        "which drew all of its training data; no picture of anyone's is in it. MIT license, like the code.",
        "",
        f"- {len(OBJECTS)} objects: {', '.join(OBJECTS)}",
        f"- {len(STYLES)} styles: {', '.join(STYLES)}; without one, *unstyled*",
        "- prompts like 'An image of cat in neon style.', in lower-case English, at most 16 tokens",
        f"- trained on {seen} images rendered on the fly (batch {config['batch']}, AdamW {config['lr']}, seed "
        f"{config['seed']}, running mean {config['ema']}), torch {training['torch']}",
        "- made by `python -m saeuron.canvas train`, then `export`; go on from these weights with `train --warm`",
        "",
        "Use: a model to develop and test concept removal on. Not a model of anything else.",
    ]
    if (folder / FIGURES).exists():
        lines += ["", "## Recognised by the classifier, test prompts", ""]
        lines += ["| guidance | steps | domain | recognised | 95 % interval | images |", "|---|---|---|---|---|---|"]
        for r in json.loads((folder / FIGURES).read_text()):
            if r["name"] == "all":
                lines.append(
                    f"| {r['guidance']} | {r['steps']} | {r['domain']} | {r['value']:.1%} | "
                    f"{r['low']:.1%} - {r['high']:.1%} | {r['n_images']} |"
                )
    (folder / CARD).write_text("\n".join(lines) + "\n")


def record_figures(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Keep measured figures beside the weights; those of another guidance or step count stay."""
    path = folder / FIGURES
    kept = json.loads(path.read_text()) if path.exists() else []
    settings = {(r["guidance"], r["steps"]) for r in rows}
    kept = [r for r in kept if (r["guidance"], r["steps"]) not in settings]
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")
    write_card(folder)
