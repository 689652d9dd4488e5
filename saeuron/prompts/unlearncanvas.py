"""The anchor prompts of UnlearnCanvas (2402.11846)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from saeuron.errors import BadPrompts
from saeuron.prompts.prompt import Prompt

ANCHORS = 80
"""Anchor prompts that UnlearnCanvas has of each object, one a line; lines beyond these are not read."""


def anchor_files(folder: Path | str, objects: Iterable[str]) -> dict[str, Path]:
    """{object: its file of anchor prompts} in a copy of UnlearnCanvas.

    Raises:
        BadPrompts: there is no such folder, or it lacks the files of some objects.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise BadPrompts(f"no such folder: {folder}; prompts.unlearncanvas names a copy of UnlearnCanvas.")
    wanted = {name: f"sd_prompt_{name.replace(' ', '_')}.txt" for name in objects}
    where = {path.name: path for path in sorted(root.rglob("sd_prompt_*.txt"), reverse=True)}
    if missing := [file for file in wanted.values() if file not in where]:
        raise BadPrompts(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of anchor prompts ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); in the benchmark they lie in "
            "machine_unlearning/mu_concept_ablation_ca/anchor_prompts/finetune_prompts."
        )
    return {name: where[file] for name, file in wanted.items()}


def from_unlearncanvas(folder: Path | str, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """The training prompts of UnlearnCanvas: `ANCHOR` and `ANCHOR in STYLE style.`, the first 80 of each object.

    Raises:
        BadPrompts: there is no domain `object`, a file is missing, not text, or has fewer than 80 lines.
    """
    if "object" not in domains:
        raise BadPrompts(f"prompts.unlearncanvas needs a domain named object; there are {', '.join(domains)}.")
    prompts = []
    for name, path in anchor_files(folder, domains["object"]).items():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except ValueError as error:
            raise BadPrompts(f"{path} cannot be read as text: {error}") from None
        if len(lines) < ANCHORS:
            raise BadPrompts(f"{path} has {len(lines)} anchor prompts; expected {ANCHORS}, one a line.")
        for line in lines[:ANCHORS]:
            prompts.append(Prompt(line, "train", {"object": name}))
            for style in domains.get("style", ()):
                text = f"{line.removesuffix('.')} in {style} style."
                prompts.append(Prompt(text, "train", {"object": name, "style": style}))
    return prompts
