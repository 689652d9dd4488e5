"""Load diffusion pipelines, identify them by content, and check hookpoints, schedulers and devices."""

import functools
import hashlib
import importlib
import math
from collections.abc import Iterable, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from saeuron.canvas import FOLDERS
from saeuron.errors import BadModel, ConfigError, UnknownName, first_line
from saeuron.pipelines import Family, family_named
from saeuron.pipelines.source import check_parts, fetched, folder_of, read
from saeuron.quiet import quiet


def check(spec: str | Path, scheduler: str | None = None, weights: bool = True) -> None:
    """Check that `spec` can be a supported model, and the scheduler's name; loads nothing.

    A hub id passes, because only the hub can tell. Without `weights` its configuration files are enough.

    Raises:
        BadModel: there is no such model, or its family is not supported.
        UnknownName: diffusers has no such scheduler.
        ConfigError: the scheduler is for other families.
    """
    folder = folder_of(spec)
    if folder is not None:
        check_parts(spec, folder, family_at(spec), weights)
    if scheduler is not None:
        _scheduler(scheduler, None if folder is None else family_at(spec))


def identity(spec: str | Path, fetch: bool = True) -> str:
    """A model's id by content: a hash of its folder's configuration and weight files, 20 hexadecimal digits.

    A hub id is looked up in the local cache, and downloaded if missing: if its branch moves, the id changes.
    """
    folder = fetched(spec, fetch)
    if not (folder / "model_index.json").is_file():
        raise BadModel(f"{folder} holds no weights; make them with: python -m saeuron.canvas train, then export.")
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors", ".txt"}):
        parts = path.relative_to(folder).parts
        beside = len(parts) == 1 and (path.suffix == ".safetensors" or path.name in {"training.json", "figures.json"})
        if len(parts) > 2 or beside:
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
    family = family_at(spec)
    sampler = None if scheduler is None else _scheduler(scheduler, family)
    folder = fetched(spec)
    check_parts(spec, folder, family)
    try:
        with quiet():
            pipe = family.load(folder, dtype)
            if sampler is not None and type(pipe.scheduler) is not sampler:
                pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    except Exception as error:
        raise BadModel(f"cannot load model {str(spec)!r}: {first_line(error)}") from error
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    family.prepare(pipe, torch.device(device))
    return pipe


def _scheduler(name: str, family: Family | None) -> Any:
    """The class of a diffusers scheduler; the family may be unknown, of a model on the hub."""
    import diffusers

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if name not in known:
        raise UnknownName("scheduler", name, known, "(model.scheduler)")
    found: Any = getattr(diffusers, name)
    if family is not None and not family.samples_with(found):
        usual = ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler")
        fits = next((n for n in usual if family.samples_with(getattr(diffusers, n))), None)
        raise ConfigError(
            f"model.scheduler: {name} is for other kinds of models; use {f'{fits}, or ' if fits else ''}none."
        )
    return found


def family_at(spec: str | Path) -> Family:
    """The family of a model, read from its model_index.json."""
    return family_named(str(read(spec, "model_index.json").get("_class_name")), spec)


def image_size(spec: str | Path) -> tuple[int, int] | None:
    """(height, width) of a model's images at its default size, from its configuration; None if that does not tell."""
    try:
        family, scale = family_at(spec), _scale(spec)
        height, width = family.sides(read(spec, f"{family.root}/config.json"))
    except (BadModel, KeyError):
        return None
    return height * scale, width * scale


def _scale(spec: str | Path) -> int:
    """Pixels on a side of a latent pixel, as the pipeline counts them."""
    return int(2 ** (len(read(spec, "vae/config.json")["block_out_channels"]) - 1))


def check_size(spec: str | Path, size: tuple[int, int] | None) -> None:
    """Raise `ConfigError` for an image size (height, width) in pixels that a model cannot draw; None is its default."""
    if size is None:
        return
    family = family_at(spec)
    config, scale = read(spec, f"{family.root}/config.json"), _scale(spec)
    # Pipelines ask for multiples of 8, whatever the VAE.
    unit = math.lcm(8, scale * family.patch(config))
    given = f"model.size: {size[0]} x {size[1]} pixels (height, width)"
    if any(side % unit for side in size):
        near = " x ".join(str(max(unit, round(side / unit) * unit)) for side in size)
        raise ConfigError(f"{given} do not fit {spec}; its VAE and denoiser take multiples of {unit}, such as {near}.")
    most = config.get("pos_embed_max_size")
    if most and max(size) > (limit := int(most) * scale * family.patch(config)):
        raise ConfigError(f"{given} are more than {spec} can place; give at most {limit} on a side.")


def check_hookpoints(spec: str | Path, paths: Iterable[str]) -> dict[str, int | None]:
    """The width D of each hookpoint, None if its module does not tell; loads no weights.

    Raises:
        BadModel: the model is missing, or its family is not supported.
        UnknownName: the model has no such hookpoint.
    """
    from saeuron.hooks import width

    paths = list(paths)
    pipe = without_weights(spec, {path.split(".")[0] for path in paths})
    return {path: width(pipe, path) for path in paths}


def without_weights(spec: str | Path, asked: Set[str] | None = None) -> Any:
    """A stand-in for a pipeline: its networks on the meta device, which holds shapes and no numbers.

    Args:
        asked: names of networks to build beside the denoiser; None: all. If a name is wrong, all are built too, so that
            the nearest hookpoint can be suggested.
    """
    family, index = family_at(spec), read(spec, "model_index.json")
    known = [root for root in (family.root, *family.text_roots) if index.get(root, [None])[0]]
    roots = [root for root in known if asked is None or root == family.root or root in asked or asked - {*known}]
    networks = {root: _meta(index[root], read(spec, f"{root}/config.json")) for root in roots}
    return SimpleNamespace(family=family.name, **networks)


def decoder_without_weights(spec: str | Path) -> Any | None:
    """The VAE of a model on the meta device; None if it is of no library that builds one from its configuration."""
    entry = read(spec, "model_index.json").get("vae") or [None, None]
    return _meta(entry, read(spec, "vae/config.json")) if entry[0] == "diffusers" else None


def _meta(entry: list[str], config: dict[str, Any]) -> Any:
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
        for name, value in read(spec, "model_index.json").items()
        if name.startswith("tokenizer") and value[0] == "transformers"
    ]
    where = fetched(spec)
    with quiet():
        found = [getattr(transformers, kind).from_pretrained(str(where), subfolder=name) for name, kind in names]
    longest = max(found, key=lambda each: each.model_max_length, default=None)
    if longest is not None and (most := family_at(spec).tokens):
        longest.model_max_length = min(longest.model_max_length, most)
    return longest


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
