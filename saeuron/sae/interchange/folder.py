"""The folder of one SAE: its configuration and tensors, with errors of one line."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saeuron.checkpoint import save_tensors
from saeuron.errors import UserError
from saeuron.files import atomic_path
from saeuron.sae.autoencoder import SAE, SAEInfo

Format = Literal["saeuron", "sparsify", "saelens"]
PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"})
PICKLED = "a pickle can run any code and is not opened: load it in the library that wrote it, save it as safetensors."

NUMBER = (int, float)
_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}


class BadSAE(UserError):
    """An SAE that cannot be read from, or written to, another library's folder."""


@dataclass(frozen=True)
class Imported:
    """Result of reading a folder."""

    sae: SAE
    format: Format
    dtype: str
    """Data type of the stored weights."""
    bytes: int
    """Size of the weights file."""
    notes: tuple[str, ...] = ()
    """Conversions that were made, and facts that the folder does not tell."""


@dataclass(frozen=True)
class Folder:
    """One SAE's folder."""

    path: Path

    def has(self, name: str) -> bool:
        """Whether it holds the file."""
        return (self.path / name).is_file()

    def config(self, kinds: Mapping[str, tuple[type, ...]] | None = None, name: str = "cfg.json") -> dict[str, Any]:
        """The object in a JSON file of the folder.

        Args:
            kinds: allowed types of fields, if present; `a.b` is field b of the object a, and must come after `a`.

        Raises:
            BadSAE: the file is missing or not JSON, or a field has another type.
            BadSAE: there is none, or it is not JSON, or a field is of another type.
        """
        path = self.path / name
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BadSAE(f"{self.path} has no {name}; expected one beside the weights.") from None
        except (ValueError, RecursionError):
            raise BadSAE(f"{path} is not JSON; it may be cut short: fetch it again.") from None
        if not isinstance(found, dict):
            raise BadSAE(f"{path} holds {type(found).__name__}; expected an object.")
        for field, allowed in (kinds or {}).items():
            *sections, last = field.split(".")
            inner = found
            for section in sections:
                inner = inner.get(section) or {}
            # Not isinstance, which accepts true as a number.
            if last in inner and type(inner[last]) not in allowed:
                words = " or ".join(dict.fromkeys(_WORDS[kind] for kind in allowed))
                raise BadSAE(f"{path} has {field} {reprlib.repr(inner[last])}; expected {words}.")
        return found

    def number(self, config: Mapping[str, Any], name: str) -> int:
        """A positive whole number of its configuration.

        Raises:
            BadSAE: it is missing or something else.
        """
        value = config.get(name)
        # Above 2^53 floats skip whole numbers.
        if isinstance(value, bool) or not isinstance(value, NUMBER) or not 1 <= value <= 2**53 or value % 1:
            raise BadSAE(
                f"{self.path / 'cfg.json'} has {name} {reprlib.repr(value)}; expected a whole number from 1 up."
            )
        return int(value)

    def checked(self, info: SAEInfo) -> SAEInfo:
        """`info` itself, after a check.

        Raises:
            BadSAE: no such SAE can exist.
        """
        try:
            info.check()
        except ValueError as error:
            raise BadSAE(f"{self.path} has {error}.") from None
        return info

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The stored weights.

        Raises:
            BadSAE: the file is missing, or not safetensors, or cut short.
        """
        path = self.path / name
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (FileNotFoundError, SafetensorError) as error:
            raise BadSAE(
                f"{path} is not a readable safetensors file ({str(error).splitlines()[0]}); fetch it again."
            ) from error

    def fitted(self, tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The tensors as float64, checked to be exactly those of `shapes`.

        Raises:
            BadSAE: one is missing, unknown or of another shape, or holds NaN or infinity.
        """
        odd = [f"no {name}" for name in shapes if name not in tensors]
        odd += [f"an unknown {name}" for name in tensors if name not in shapes]
        if odd:
            raise BadSAE(f"{self.path} holds {', '.join(odd)}; expected the tensors {', '.join(shapes)}.")
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != tuple(shape):
                found, wanted = list(tensors[name].shape), list(shape)
                raise BadSAE(f"{self.path}: {name} has shape {found}, but its cfg.json says {wanted}.")
            if not torch.isfinite(tensors[name].float()).all():
                raise BadSAE(f"{self.path}: {name} holds NaN or infinity; the weights are damaged.")
        return {name: tensors[name].double() for name in shapes}

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.path / name).stat().st_size

    def save(self, name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write the weights, then `cfg.json`, each atomically."""
        save_tensors(self.path / name, tensors, {})
        with atomic_path(self.path / "cfg.json") as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")


def has_pickles(path: Path) -> bool:
    """Whether a folder holds files that may be pickles."""
    return any(p.suffix in PICKLES for p in path.iterdir())


def dtype_of(tensor: Tensor) -> str:
    """Short name of its dtype, such as bfloat16."""
    return str(tensor.dtype).removeprefix("torch.")
