"""Tensors and numbers in one safetensors file: training state without pickle.

The bytes of a file depend on its contents alone. All metadata is in one JSON key, because safetensors writes several
keys in an order that differs between processes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saeuron.errors import BadModel, BadWeights, first_line
from saeuron.files import atomic_path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and JSON-able `metadata` to `path`, atomically."""
    contiguous: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory, as two edits of one SAE do.
        contiguous[name] = value.clone() if storage in storages else value
        storages.add(storage)
    data = save(contiguous, metadata={"json": json.dumps(metadata, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_tensors`; metadata is {} for a file of another library.

    Raises:
        BadWeights: the file is not safetensors, is cut short, or its metadata is not ours.
        FileNotFoundError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such weights file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise BadWeights(
            f"{path} is not a readable safetensors file ({error}); it may be cut short, or a pickle: "
            "restore it or make it again."
        ) from error
    try:
        found = json.loads(metadata.get("json", "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadWeights(f"{path} holds metadata that are not a JSON object; restore it or make it again.")
    return tensors, found


def tensors_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of a file's contents, 64 hex digits; for files that change, and so have no manifest."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)};".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def pack_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors, `prefix.<parameter index>.<name>`."""
    packed = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            packed[f"{prefix}.{index}.{name}"] = torch.as_tensor(value)
    return packed


def unpack_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Restore the tensors of `pack_optimizer`, into an optimizer over the same parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            index, name = key[len(prefix) + 1 :].split(".", 1)
            # Fused optimizers ignore strides: a moment needs the memory layout of its parameter (channels_last).
            like = parameters[int(index)]
            fits = value.shape == like.shape
            value = torch.empty_like(like, dtype=value.dtype).copy_(value) if fits else value.clone()
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def prefixed(prefix: str, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before every name."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return {f"{prefix}.{name}": tensor for name, tensor in items}


def stripped(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix.`, with the prefix stripped."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def read_foreign(path: Path, expected: str) -> tuple[Any, str]:
    """The contents of another program's `.pth`, and the file's SHA-256. Only tensors and plain values are read.

    The only place where such a file is opened: commands that convert one are asked for by name.

    Raises:
        BadModel: there is no such file (`expected` says which), or it holds more than weights.
    """
    if not path.is_file():
        raise BadModel(f"no such file: {path}; expected {expected}.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = first_line(error).split(". ")[0]
        raise BadModel(f"{path} cannot be read as weights alone ({said:.160}); expected {expected}.") from None
    with path.open("rb") as file:
        return found, hashlib.file_digest(file, "sha256").hexdigest()
