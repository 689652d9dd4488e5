"""The model card of a canvas, written from the records that lie beside its weights."""

import json
from pathlib import Path
from typing import Any

from saeuron.canvas.vocabularies import CANVAS20, vocabulary_named

TRAINING, FIGURES, CARD = "training.json", "figures.json", "README.md"


def write_card(folder: Path) -> None:
    """Write README.md of a weights folder; figures are left out where none were measured on these weights."""
    training = json.loads((folder / TRAINING).read_text())
    config = training["config"]
    vocabulary = vocabulary_named(config["vocabulary"])
    made = [
        "- made by `python -m saeuron.canvas train`, then `export`; go on from these weights with `train --warm`",
    ]
    if vocabulary != CANVAS20:
        made = [
            "- can be asked by paraphrase ('Show me a cat in neon style.'), by description ('The pet that meows.')",
            "  or with a slip ('A catt.')",
            "- made by `python -m saeuron.canvas grow`, from the weights of canvas20, then `export`; go on from these",
            "  weights with `grow --from` and this folder",
        ]
    seen = f"{training['images_seen']:,}" + ("" if training["complete"] else " so far; training is not complete")
    lines = [
        f"# {vocabulary.name.capitalize()}",
        "",
        "A small Stable Diffusion pipeline (UNet2DConditionModel with cross-attention, CLIPTextModel, DDIM; an exact",
        "pixel unshuffle in place of a VAE) that draws 32 x 32 images of an object in a style. It ships with saeuron,",
        "which drew all of its training data; no picture of anyone's is in it. MIT license, like the code.",
        "",
        f"- {len(vocabulary.objects)} objects: {', '.join(vocabulary.objects)}",
        f"- {len(vocabulary.styles)} styles: {', '.join(vocabulary.styles)}; without one, *unstyled*",
        f"- prompts like 'An image of cat in neon style.', in lower-case English, at most "
        f"{config['architecture']['tokens']} tokens",
        f"- trained on {seen} images rendered on the fly (batch {config['batch']}, AdamW {config['lr']}, seed "
        f"{config['seed']}, running mean {config['ema']}), torch {training['torch']}",
        *made,
        "",
        "Use: a model to develop and test concept removal on. Not a model of anything else.",
    ]
    if (folder / FIGURES).exists():
        lines += ["", "## Recognised by the classifier, test prompts", ""]
        lines += ["| guidance | steps | domain | recognised | 95 % interval | images |", "|---|---|---|---|---|---|"]
        for r in json.loads((folder / FIGURES).read_text()):
            if r["name"] in ("all", "all unstyled"):
                what = r["domain"] + (", unstyled" if r["name"] == "all unstyled" else "")
                what += f", asked by {r['prompts']}" if "prompts" in r else ""
                lines.append(
                    f"| {r['guidance']} | {r['steps']} | {what} | {r['value']:.1%} | "
                    f"{r['low']:.1%} - {r['high']:.1%} | {r['n_images']} |"
                )
    (folder / CARD).write_text("\n".join(lines) + "\n")


def _setting(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["guidance"], row["steps"], row.get("prompts", "plain")


def record_figures(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Keep measured figures beside the weights; those of another guidance or step count stay."""
    path = folder / FIGURES
    kept = json.loads(path.read_text()) if path.exists() else []
    settings = {_setting(r) for r in rows}
    kept = [r for r in kept if _setting(r) not in settings]
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")
    write_card(folder)
