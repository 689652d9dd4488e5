"""Load diffusion pipelines, and say which one it was."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from saeuron.canvas import WEIGHTS
from saeuron.errors import BadModel, ConfigError

_SMALL = 16
"""Latents of at most this side count as canvas-sized."""


def _folder(spec: str) -> Path | None:
    """The local folder that `spec` names; None where it can only be a hub id."""
    if spec == "canvas":
        return WEIGHTS
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise BadModel(f"{spec} is not a diffusers pipeline: it has no model_index.json; give its top folder.")
        return path
    if path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") != 1:
        raise BadModel(f"no such model: {spec!r}; expected 'canvas', a folder with a diffusers pipeline, or a hub id.")
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check(spec: str) -> None:
    """Raise `BadModel` if `spec` cannot be a model; loads nothing.

    A hub id passes: only the hub can tell.
    """
    _folder(spec)


def identity(spec: str) -> str:
    """What a model is, by content: a hash of its folder's configuration and weight files, 20 hexadecimal digits.

    A hub id is looked up in the local cache (downloaded first if need be), so that moving a branch changes the answer.
    """
    folder = _folder(spec)
    if folder is None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(spec, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
        except Exception as error:
            raise BadModel(f"cannot fetch model {spec!r}: {_first_line(error)}") from error
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


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no chatter from the libraries while a model is loaded; their settings are put back after."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    kept = diffusers_log.get_verbosity(), transformers_log.get_verbosity()
    for log in (diffusers_log, transformers_log):
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity in zip((diffusers_log, transformers_log), kept, strict=True):
            log.set_verbosity(verbosity)
            log.enable_progress_bar()


def load_pipeline(
    spec: str = "canvas", *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """A diffusers pipeline with a DDIM scheduler, ready to sample.

    Args:
        spec: `canvas` (the model that ships with the project), a local folder, or a hub id. Safetensors only.
        device: where it runs.
        dtype: precision of its weights.

    Raises:
        BadModel: it is not there, or it cannot be loaded.
    """
    folder = _folder(spec)
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    try:
        with _quiet():
            # The model_index.json of any canvas names this module; diffusers finds it once it is imported.
            import saeuron.canvas.vae  # noqa: F401

            pipe = StableDiffusionPipeline.from_pretrained(
                folder or spec,
                dtype=dtype,
                use_safetensors=True,
                safety_checker=None,
                requires_safety_checker=False,
            )
    except Exception as error:
        raise BadModel(f"cannot load model {spec!r}: {_first_line(error)}") from error
    if not isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    if torch.device(device).type == "cpu":
        pipe.unet.to(memory_format=torch.channels_last)
        if pipe.unet.config.sample_size <= _SMALL:
            from diffusers.models.attention_processor import AttnProcessor

            # Measured: at canvas's sizes the plain processor is faster than scaled_dot_product_attention on CPU.
            pipe.unet.set_attn_processor(AttnProcessor())
    return pipe


def check_hookpoints(spec: str, paths: Iterable[str]) -> dict[str, int | None]:
    """The width D of each hookpoint, None where its module does not tell; the weights are not loaded.

    Raises:
        UnknownName: the model has no such hookpoint.
    """
    from diffusers import UNet2DConditionModel

    from saeuron.hooks import resolve, width

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_unet_config(spec))
    pipe = SimpleNamespace(unet=unet)
    for path in paths:
        resolve(pipe, path)
    return {path: width(pipe, path) for path in paths}


def _unet_config(spec: str) -> dict[str, Any]:
    folder = _folder(spec)
    if folder is not None:
        path = folder / "unet" / "config.json"
        if not path.is_file():
            raise BadModel(f"{spec} has no unet/config.json; expected a Stable Diffusion pipeline's folder.")
        return json.loads(path.read_text())
    from huggingface_hub import hf_hub_download

    try:
        return json.loads(Path(hf_hub_download(spec, "unet/config.json")).read_text())
    except Exception as error:
        raise BadModel(f"cannot fetch model {spec!r}: {_first_line(error)}") from error


def check_device(device: str) -> None:
    """Raise `ConfigError` for a device that torch does not know or that this machine lacks."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used here ({reason}); expected cpu, cuda or cuda:N.") from None
