"""Model cards of published SAEs and removals, written from provenance: what it is, its figures and its limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import saeuron
from saeuron.methods.detection.probe import Probe
from saeuron.methods.latents import LatentEdit
from saeuron.methods.parts import Watch
from saeuron.methods.removal import Removal
from saeuron.pages.document import render
from saeuron.sae.autoencoder import SAE

_LIBRARIES = {"saeuron": "saeuron", "sparsify": "sparsify", "saelens": "sae_lens"}
_LOADING = {
    "saeuron": 'from saeuron import SAE\n\nsae = SAE.load("{}")',
    "sparsify": 'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk("{}")',
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.load_from_disk("{}")',
}


@dataclass(frozen=True)
class SAEFacts:
    """The origin of an SAE; empty fields are unknown."""

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
    """Training data: images, steps, rows, half, read."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """fvu, l0, dead, rows, seconds."""


def published(name: str) -> str:
    """The name of a model or source to print on a card: local paths are private, so only their last part is shown."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.exists() else name


def sae_card(sae: SAE, facts: SAEFacts, notes: Sequence[str] = ()) -> str:
    """The README.md of a published SAE, whose files are in a folder beside it, named by its hookpoint."""
    return render(
        "sae_card.md",
        info=sae.info,
        facts=facts,
        notes=notes,
        place=sae.info.hookpoint or "sae",
        version=saeuron.__version__,
        LIBRARIES=_LIBRARIES,
        LOADING=_LOADING,
    )


def removal_card(
    removal: Removal,
    figures: Sequence[Mapping[str, Any]],
    outcome: Mapping[str, Any],
    file: str = "removal.safetensors",
) -> str:
    """The README.md of a published removal.

    Args:
        figures: rows of the view `metrics`: metric, value, low, high, unedited, unedited_low, unedited_high, n_images,
            n_prompts, seeds, split, image_set. Empty: it was never measured.
        outcome: verdict, reason, harmed (rows: harmed, domain, before, after, low, high, n; the worst first) and others
            (how many were looked at). Empty: not known.
        file: the removal's file beside the card.
    """
    about = removal.provenance
    edits = [
        {"hookpoint": f"`{e.hookpoint}`"}
        | ({"SAE": f"`{e.sae_id}`", "latents": len(e.latents)} if isinstance(e, LatentEdit) else {"edit": e.kind})
        | {"half": e.half}
        for e in removal.edits
    ]
    read = [
        {"hookpoint": f"`{p.hookpoint}`", "SAE": f"`{p.sae_id}`", "latents": len(p.latents)}
        for part in removal.parts
        if isinstance(part, Watch)
        for p in part.watched
        if isinstance(p, Probe | LatentEdit)
    ]
    return render(
        "removal_card.md",
        removal=removal,
        about={name: about.get(name, "") for name in ("model_id", "removal_id")},
        model=published(str(about.get("model", ""))),
        reference=sorted(about.get("reference") or ()),
        edits=edits,
        read=read,
        figures=figures,
        outcome=outcome,
        file=file,
        version=saeuron.__version__,
    )
