"""Model cards of published SAEs and removals, written from provenance: what it is, its figures and its limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import saeuron
from saeuron.canvas import FOLDERS
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from saeuron.sae.autoencoder import SAE
from saeuron.sae.interchange import seems_hub_id

_LIBRARIES = {"saeuron": "saeuron", "sparsify": "sparsify", "saelens": "sae_lens"}
_LOADING = {
    "saeuron": 'from pathlib import Path\n\nfrom saeuron import SAE\n\nsae = SAE.load(Path("{}"))',
    "sparsify": 'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk("{}")',
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.load_from_disk("{}")',
}
_CITATION = """\
## Citation

The method is that of SAeUron ([arXiv 2501.18052](https://arxiv.org/abs/2501.18052)):

```
@misc{cywinski2025saeuron,
  title = {SAeUron: Interpretable Concept Unlearning in Diffusion Models with Sparse Autoencoders},
  author = {Cywi\\'nski, Bartosz and Deja, Kamil},
  year = {2025},
  eprint = {2501.18052},
  archivePrefix = {arXiv}
}
```"""
_SHIPPED = (
    "Its model is {model}, a small pipeline that ships with saeuron and draws simple objects in simple styles: "
    "its figures do not carry over to Stable Diffusion."
)


@dataclass(frozen=True)
class SAEFacts:
    """Where an SAE came from; empty fields are unknown."""

    name: str
    """Its id, or the source it was read from."""
    format: str
    """The format of the folder that holds the card."""
    command: str
    """The command that made it."""
    model: str = ""
    """The diffusion model's name, as configured."""
    model_id: str = ""
    """A hash of the model's content."""
    run: str | None = None
    """The whole configuration of the run that trained it, YAML."""
    training: Mapping[str, Any] = field(default_factory=dict)
    capture: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on: images, steps, rows, half, read."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """fvu, l0, dead, rows, seconds."""


def published(name: str) -> str:
    """The name of a model or source to print on a card: local paths are private, so only their last part is shown."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.exists() else name


def sae_card(sae: SAE, facts: SAEFacts, notes: Sequence[str] = ()) -> str:
    """The README.md of a published SAE, whose files are in a folder beside it, named by its hookpoint."""
    info, place = sae.info, sae.info.hookpoint or "sae"
    rows: dict[str, Any] = {
        "model": _model(facts.model, facts.model_id),
        "hookpoint": f"`{place}`",
        "variant": info.variant,
        "activation at inference": {"topk": f"the {info.k} largest of each row"}.get(info.activation, info.activation),
        "width D": info.width,
        "latents N": info.n_latents,
        "k": info.k or "not known",
        **_figures(facts.figures),
        "id": f"`{facts.name}`",
    }
    parts = [
        _front(facts.model, _LIBRARIES[facts.format], ["sparse-autoencoder"]),
        f"# Sparse autoencoder for `{place}`",
        "It reads the activations of that module of the diffusion model, one row for each spatial position. Written by "
        f"saeuron {saeuron.__version__} in the format `{facts.format}`.",
        _table(rows),
        "## How it was made",
        f"```\n{facts.command}\n```",
        *_trained(facts),
        "## How to load it",
        f"```python\n{_LOADING[facts.format].format(place)}\n```",
        f"Or, for a workspace of saeuron: `saeuron sae import OWNER/NAME:{place} --hookpoint {place}`.",
        "## Limits",
        _list([*notes, *_limits(facts)]),
        _CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def removal_card(removal: Removal, figures: Sequence[Mapping[str, Any]], file: str = "removal.safetensors") -> str:
    """The README.md of a published removal.

    Args:
        figures: rows of the view `metrics`: metric, value, low, high, unedited, unedited_low, unedited_high, n_images,
            n_prompts, seeds, split, image_set. Empty: it was never measured.
        file: the removal's file beside the card.
    """
    about = removal.provenance
    model = published(str(about.get("model", "")))
    reference = sorted(about.get("reference") or ())
    rows: dict[str, Any] = {
        "removes": f"{removal.domain} `{removal.concept}`",
        "model": _model(model, str(about.get("model_id", ""))),
        "method": removal.method,
        "settings": ", ".join(f"{name} {value}" for name, value in removal.settings.items()) or "none",
        "computed against": f"{len(reference)} concepts: {', '.join(reference)}" if reference else "not known",
        "id": f"`{about.get('removal_id', 'not known')}`",
    }
    edits = [
        {"hookpoint": f"`{e.hookpoint}`"}
        | ({"SAE": f"`{e.sae_id}`", "latents": len(e.latents)} if isinstance(e, LatentEdit) else {"edit": e.kind})
        | {"half": e.half}
        for e in removal.edits
    ]
    parts = [
        _front(model, "saeuron", ["concept-unlearning"]),
        f"# Removal of {removal.domain} `{removal.concept}`",
        "It edits a diffusion model's activations during generation, so that the concept is left out; the model's "
        f"weights stay as they are. Written by saeuron {saeuron.__version__}.",
        _table(rows),
        *([_grid(edits)] if edits else []),
        "## Figures",
        *_measured(figures, removal.concept),
        "## How to use it",
        f"""```python
import saeuron

pipe = saeuron.load_pipeline("{model or "MODEL"}")
removal = saeuron.Removal.load("{file}")
with removal.attached(pipe) as call:
    image = pipe("PROMPT", **call).images[0]  # any number of steps: the edit matches by timestep
```""",
        f'Or: `saeuron generate "PROMPT" --remove {file} --out image.png`.',
        "## Limits",
        _list(_removal_limits(model, figures)),
        _CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def _front(model: str, library: str, tags: list[str]) -> str:
    fields: dict[str, Any] = {
        "library_name": library,
        "tags": [*tags, "diffusion", "saeuron", "arxiv:2501.18052"],
    }
    if seems_hub_id(model):
        fields["base_model"] = model
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _model(name: str, content: str) -> str:
    if not name and not content:
        return "not known"
    return " ".join([f"`{name}`" if name else "", f"(content {content})" if content else ""]).strip()


def _figures(found: Mapping[str, float | None]) -> dict[str, str]:
    words = {
        "fvu": ("fraction of variance unexplained", "{:.4f}"),
        "l0": ("latents that fire on a row, mean", "{:.2f}"),
        "dead": ("latents that never fire", "{:.2%}"),
        "rows": ("rows seen in training", "{:,.0f}"),
        "seconds": ("seconds of training", "{:,.1f}"),
    }
    known = {name: value for name in words if (value := found.get(name)) is not None}
    return {words[name][0]: words[name][1].format(value) for name, value in known.items()}


def _trained(facts: SAEFacts) -> list[str]:
    parts = []
    if facts.run is not None:
        parts.append(
            "`run.yaml` is beside this card; with the same model, versions and threads it makes these weights."
        )
    if facts.capture:
        parts += ["Trained on:", _table(dict(facts.capture))]
    if facts.training:
        parts += ["Training:", f"```yaml\n{yaml.safe_dump(dict(facts.training), sort_keys=True)}```"]
    return parts


def _limits(facts: SAEFacts) -> list[str]:
    found = []
    if facts.figures.get("fvu") is None:
        found.append("Its reconstruction was not measured here.")
    else:
        found.append("Its figures were measured on the activations it was trained on, not on others.")
    if facts.model in FOLDERS:
        found.append(_SHIPPED.format(model=facts.model))
    return [*found, "A latent is a direction that was found, not a meaning: what it stands for has to be checked."]


def _removal_limits(model: str, figures: Sequence[Mapping[str, Any]]) -> list[str]:
    found = ["It fits this model only, and was tuned on prompts like those it was measured on."]
    if figures:
        found.append(
            "Judged by classifiers, on the prompts of that run; other prompts, and attacks, may bring the concept back."
        )
    else:
        found.append("Nothing was measured: whether the concept is gone, and what else was lost, is unknown.")
    if model in FOLDERS:
        found.append(_SHIPPED.format(model=model))
    return [*found, "It is an edit at run time: anyone who has the model can run it without the edit."]


def _measured(figures: Sequence[Mapping[str, Any]], concept: str) -> list[str]:
    if not figures:
        return [f"It was not measured; `saeuron evaluate {concept}` does it."]
    rows = [
        {
            "metric": f["metric"],
            "removed": _percent(f["value"]),
            "95 %": _interval(f["low"], f["high"]),
            "unedited": _percent(f["unedited"]),
            "95 % ": _interval(f["unedited_low"], f["unedited_high"]),
            "images": f["n_images"],
            "prompts": f["n_prompts"],
            "asked to": str(f["image_set"]).removeprefix("asked to "),
        }
        for f in figures
    ]
    first = figures[0]
    return [
        _grid(rows),
        "UA: the judge does not see the removed concept where it was asked for. IRA: it sees the other concepts of the "
        "domain. CRA: it sees those of the other domains. Percent, higher is better (IRA-drop: lower); *unedited* is "
        "the same prompts and seeds without the removal, the ceiling of IRA and CRA. "
        f"{first['split'].capitalize()} prompts, {first['seeds']} image(s) a prompt; intervals by Wilson for a "
        "proportion, by a bootstrap over prompts for a mean of means.",
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{_percent(low)} to {_percent(high)}"


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]) if rows else []
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
