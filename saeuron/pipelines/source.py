"""A model's files, in a folder or on the hub; what is wrong with them is said in one line, before it is loaded."""

import json
from pathlib import Path
from typing import Any

from saeuron.canvas import FOLDERS
from saeuron.errors import BadModel, first_line, hub_id, why_not_fetched
from saeuron.pipelines.base import Family

PATTERNS = ("model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model")
"""Patterns of the files to fetch from the hub: the parts' folders, without weights in a single file beside them."""


def folder_of(spec: str | Path) -> Path | None:
    """The local folder that `spec` names; None if it can only be a hub id. A `Path` is always a folder.

    Raises:
        BadModel: it can be neither.
    """
    if spec in FOLDERS:
        return FOLDERS[spec]
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise BadModel(f"{spec} is not a diffusers pipeline: it has no model_index.json; give its top folder.")
        return path
    if path.is_file():
        raise BadModel(
            f"{spec} is a file; expected a folder with a diffusers pipeline. A checkpoint in one file becomes one with "
            "from_single_file(FILE) of its class in diffusers, then save_pretrained(FOLDER)."
        )
    name = hub_id(str(spec))[0]
    if isinstance(spec, Path) or path.is_absolute() or spec.startswith((".", "~")) or name.count("/") != 1:
        raise BadModel(
            f"no such model: {str(spec)!r}; expected {' or '.join(map(repr, FOLDERS))}, "
            "a folder with a diffusers pipeline, or a hub id."
        )
    return None


def fetched(spec: str | Path, fetch: bool = True) -> Path:
    """The folder of a model; one on the hub is downloaded to the hub's cache if it is missing.

    Args:
        fetch: whether to ask the hub; otherwise only its cache is looked at.

    Raises:
        BadModel: it is not there or cannot be fetched.
    """
    if (folder := folder_of(spec)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    name, revision = hub_id(str(spec))
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=[*PATTERNS], local_files_only=not fetch)
    except Exception as error:
        raise _explained(spec, error) from error
    return Path(found)


def read(spec: str | Path, name: str) -> dict[str, Any]:
    """One JSON file of a model, from its folder or from the hub.

    Raises:
        BadModel: it is missing or cannot be read.
    """
    path = _path(spec, name)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise BadModel(f"{spec} has no {name}; expected the whole folder of a diffusers pipeline.") from None
    except ValueError as error:
        raise BadModel(f"{path} cannot be read ({first_line(error)}); fetch the model again.") from None


def _path(spec: str | Path, name: str) -> Path:
    folder = folder_of(spec)
    if folder is not None:
        return folder / name
    from huggingface_hub import hf_hub_download

    repository, revision = hub_id(str(spec))
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        raise _explained(spec, error) from error


def _explained(spec: str | Path, error: Exception) -> BadModel:
    """Why a model cannot be fetched, and what to do."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        why = "it is not a diffusers pipeline: it lacks a file of one, such as model_index.json"
    else:
        why = why_not_fetched(*hub_id(str(spec)), error)
    return BadModel(f"cannot fetch model {str(spec)!r}: {why}")


def check_parts(spec: str | Path, folder: Path, family: Family, weights: bool = True) -> None:
    """Raise `BadModel` for a part that the family needs and that is missing, or has no weights but pickled ones.

    Args:
        spec: the model's name in messages.
        folder: its files.
        family: what they are read as.
        weights: whether they are needed.
    """
    index = read(folder, "model_index.json")
    networks = [family.root, "vae", *(name for name in family.text_roots if name not in family.optional)]
    for name in (*networks, "scheduler"):
        if not (index.get(name) or [None])[0]:
            raise BadModel(
                f"{spec} has no {name.replace('_', ' ')}: its model_index.json names none, and {family.name} needs "
                "one; save the whole pipeline with save_pretrained."
            )
        if not any((folder / name).glob("*.json")):
            raise BadModel(f"{spec} has no {name}/config.json; expected the whole folder of a diffusers pipeline.")
    for name in networks if weights else ():
        if any((folder / name).glob("*.safetensors")):
            continue
        if any((folder / name).glob("*.bin")):
            raise BadModel(
                f"{spec} has the weights of its {name.replace('_', ' ')} only as .bin, a pickle, which is not "
                "loaded; load it yourself where you trust it, and save it with save_pretrained(FOLDER)."
            )
        raise BadModel(
            f"{spec} has no weights of its {name.replace('_', ' ')}: {name}/ holds no .safetensors; "
            "fetch the model again."
        )
