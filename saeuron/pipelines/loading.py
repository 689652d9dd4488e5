"""Load diffusion pipelines, identify them by content, and check hookpoints, schedulers and devices."""

import functools
import hashlib
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from saeuron.canvas import FOLDERS
from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.pipelines import Family, family_named
from saeuron.quiet import quiet


def _folder(spec: str | Path) -> Path | None:
    """The local folder that `spec` names; None if it can only be a hub id. A `Path` is always a folder."""
    if spec in FOLDERS:
        return FOLDERS[spec]
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise BadModel(f"{spec} is not a diffusers pipeline: it has no model_index.json; give its top folder.")
        return path
    if isinstance(spec, Path) or path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") != 1:
        raise BadModel(
            f"no such model: {str(spec)!r}; expected {' or '.join(map(repr, FOLDERS))}, "
            "a folder with a diffusers pipeline, or a hub id."
        )
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check(spec: str | Path, scheduler: str | None = None) -> None:
    """Check that `spec` can be a supported model, and the scheduler's name; loads nothing.

    A hub id passes, because only the hub can tell.

    Raises:
        BadModel: there is no such model, or its family is not supported.
        UnknownName: diffusers has no such scheduler.
        ConfigError: the scheduler is for other families.
    """
    if _folder(spec) is not None:
        _family(spec)
    if scheduler is not None:
        _scheduler(scheduler)


def identity(spec: str | Path, fetch: bool = True) -> str:
    """A model's id by content: a hash of its folder's configuration and weight files, 20 hexadecimal digits.

    A hub id is looked up in the local cache, and downloaded if missing: if its branch moves, the id changes.
    """
    folder = _folder(spec)
    if folder is None:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt"]
        try:
            folder = Path(snapshot_download(str(spec), allow_patterns=patterns, local_files_only=not fetch))
        except Exception as error:
            raise BadModel(f"cannot fetch model {str(spec)!r}: {_first_line(error)}") from error
    if not (folder / "model_index.json").is_file():
        raise BadModel(f"{folder} holds no weights; make them with: python -m saeuron.canvas train, then export.")
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors", ".txt"}):
        parts = path.relative_to(folder).parts
        if len(parts) > 2 or path.name in {"classifier.safetensors", "training.json", "figures.json"}:
            continue
        with path.open("rb") as file:
            digest.update("/".join(parts).encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:20]


def origin(pipe: Any) -> tuple[str, str] | None:
    """(name, id) of the model that a pipeline was loaded from; None if its files are not here, or it was built."""
    spec = str(getattr(getattr(pipe, "config", None), "_name_or_path", None) or "")
    name = next((known for known, folder in FOLDERS.items() if str(folder) == spec), spec)
    return (name, model_id) if spec and (model_id := _identity_once(spec)) else None


@functools.cache
def _identity_once(spec: str) -> str | None:
    try:
        return identity(spec, fetch=False)
    except BadModel:
        return None


def load_pipeline(
    spec: str | Path = "canvas",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    scheduler: str | None = None,
) -> Any:
    """A diffusers pipeline, ready to sample.

    Args:
        spec: `canvas` or `canvas20` (both ship with the project), a local folder, or a hub id. Safetensors only.
        device: the device to move it to.
        dtype: precision of its weights.
        scheduler: class name of a diffusers scheduler, such as `DDIMScheduler`; None: the model's own.

    Raises:
        BadModel: it is missing, its family is not supported, or it cannot be loaded.
        UnknownName: diffusers has no such scheduler.
        ConfigError: the scheduler is for other families.
    """
    family = _family(spec)
    sampler = None if scheduler is None else _scheduler(scheduler)
    try:
        with quiet():
            pipe = family.load(_folder(spec) or str(spec), dtype)
            if sampler is not None and type(pipe.scheduler) is not sampler:
                pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    except Exception as error:
        raise BadModel(f"cannot load model {str(spec)!r}: {_first_line(error)}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    family.prepare(pipe, torch.device(device))
    return pipe


def _scheduler(name: str) -> Any:
    """The class of a diffusers scheduler."""
    import diffusers

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if name not in known:
        raise UnknownName("scheduler", name, known, "(model.scheduler)")
    found: Any = getattr(diffusers, name)
    if not hasattr(found, "scale_model_input"):
        raise ConfigError(f"model.scheduler: {name} is for other kinds of models; use DDIMScheduler, or none.")
    return found


def _family(spec: str | Path) -> Family:
    """The family of a model, read from its model_index.json."""
    return family_named(str(_read(spec, "model_index.json").get("_class_name")), spec)


def _read(spec: str | Path, name: str) -> dict[str, Any]:
    """One JSON file of a model, from its folder or from the hub."""
    path = _path(spec, name)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise BadModel(f"{spec} has no {name}; expected the whole folder of a diffusers pipeline.") from None
    except ValueError as error:
        raise BadModel(f"{path} cannot be read ({_first_line(error)}); fetch the model again.") from None


def _path(spec: str | Path, name: str) -> Path:
    """A file of a model, in its folder or fetched from the hub."""
    folder = _folder(spec)
    if folder is not None:
        return folder / name
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(spec), name))
    except Exception as error:
        raise BadModel(f"cannot fetch model {str(spec)!r}: {_first_line(error)}") from error


def image_size(spec: str | Path) -> tuple[int, int] | None:
    """(height, width) of a model's images at its default size, from its configuration; None if that does not tell."""
    try:
        side = _read(spec, "unet/config.json")["sample_size"]
        scale = 2 ** (len(_read(spec, "vae/config.json")["block_out_channels"]) - 1)
    except (BadModel, KeyError):
        return None
    height, width = (side, side) if isinstance(side, int) else side
    return height * scale, width * scale


def check_hookpoints(spec: str | Path, paths: Iterable[str]) -> dict[str, int | None]:
    """The width D of each hookpoint, None if its module does not tell; loads no weights.

    Raises:
        BadModel: the model is missing, or its family is not supported.
        UnknownName: the model has no such hookpoint.
    """
    from saeuron.hooks import width

    paths = list(paths)
    family, index = _family(spec), _read(spec, "model_index.json")
    known = [root for root in (family.root, *family.text_roots) if index.get(root, [None])[0]]
    asked = {path.split(".")[0] for path in paths}
    # Build only the networks asked for; all of them if a name is wrong, to suggest the nearest hookpoint.
    roots = [root for root in known if root == family.root or root in asked or asked - {*known}]
    networks = {root: _without_weights(index[root], _read(spec, f"{root}/config.json")) for root in roots}
    pipe = SimpleNamespace(family=family.name, **networks)
    return {path: width(pipe, path) for path in paths}


def _without_weights(entry: list[str], config: dict[str, Any]) -> Any:
    """A network on the meta device; `entry` is [diffusers or transformers, its class], as in model_index.json."""
    library, name = entry
    if library not in ("diffusers", "transformers"):
        raise BadModel(f"the network {library}.{name} cannot be listed; expected one of diffusers or transformers.")
    kind: Any = getattr(importlib.import_module(library), name)
    with torch.device("meta"):
        if hasattr(kind, "config_class"):
            return kind(kind.config_class.from_dict(config))
        return kind.from_config(config)


def tokenizer(spec: str | Path) -> Any | None:
    """The tokenizer of a model that reads the longest prompts; None if it names none of transformers."""
    import transformers

    names = [
        (name, value[1])
        for name, value in _read(spec, "model_index.json").items()
        if name.startswith("tokenizer") and value[0] == "transformers"
    ]
    where = _folder(spec)
    with quiet():
        found = [
            getattr(transformers, kind).from_pretrained(str(where or spec), subfolder=name) for name, kind in names
        ]
    return max(found, key=lambda each: each.model_max_length, default=None)


def unread(tokenizer: Any, texts: Iterable[str]) -> dict[str, str]:
    """{text: its end that the model does not read}, of the texts that are longer than the tokenizer's limit."""
    most, lost = tokenizer.model_max_length, {}
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, verbose=False).input_ids
        if len(ids) > most:
            # The last token that is read is the end mark, which a longer text has later.
            lost[text] = tokenizer.decode(ids[most - 1 : -1]).strip()
    return lost


def check_device(device: str) -> None:
    """Raise `ConfigError` for a device that torch does not know or this machine lacks."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used here ({reason}); expected cpu, cuda or cuda:N.") from None
