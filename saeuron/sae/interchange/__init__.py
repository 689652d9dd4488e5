"""Read and write SAEs of other libraries: a folder with `cfg.json` and one safetensors file.

    saeuron    sae.safetensors          W_enc (N,D), b_enc (N), W_dec (N,D), b_dec (D), threshold (N)
    sparsify   sae.safetensors          encoder.weight (N,D), encoder.bias (N), W_dec (N,D), b_dec (D); SAeUron's too
    saelens    sae_weights.safetensors  W_enc (D,N), b_enc (N), W_dec (N,D), b_dec (D), more by architecture

`locate` finds the folder, on disk or on the hub. `read` gives an SAE that computes the same as the other library, or
an error of one line. `write` makes a folder that the other library loads. Pickles are never opened.

    folder.py      one SAE's folder: configuration and tensors, checked
    native.py      folders of this project
    sparsify.py    folders of sparsify and SAeUron
    saelens.py     folders of SAELens
    source.py      where a folder is: on disk or on the hub
"""

from pathlib import Path
from types import ModuleType
from typing import get_args

from saeuron.errors import UnknownName
from saeuron.sae.autoencoder import SAE
from saeuron.sae.interchange import native, saelens, sparsify
from saeuron.sae.interchange.folder import PICKLED, BadSAE, Folder, Format, Imported, has_pickles
from saeuron.sae.interchange.source import Located, locate, seems_hub_id

__all__ = ["FORMATS", "BadSAE", "Format", "Imported", "Located", "locate", "read", "seems_hub_id", "write"]

FORMATS: tuple[Format, ...] = get_args(Format)
_MODULES: dict[str, ModuleType] = {"saeuron": native, "sparsify": sparsify, "saelens": saelens}


def read(path: Path | str, hookpoint: str = "", scale: float | None = None) -> Imported:
    """The SAE in a folder, float32, of any known library.

    Args:
        path: the folder that holds `cfg.json`.
        hookpoint: replaces the hookpoint that the folder names.
        scale: the factor of `normalize_activations: expected_average_only_in`, if the folder does not hold it.

    Raises:
        BadSAE: it is damaged, of an unknown kind, or computes something that has no exact equivalent here.
    """
    path = Path(path)
    folder = Folder(path)
    if folder.has("sae_weights.safetensors"):
        return saelens.read(folder, hookpoint, scale)
    if folder.has("sae.safetensors"):
        native_here = "n_latents" in folder.config()
        return native.read(folder, hookpoint) if native_here else sparsify.read(folder, hookpoint)
    if has_pickles(path):
        raise BadSAE(f"{path} holds its weights only as a pickle; {PICKLED}")
    raise BadSAE(
        f"{path} holds no SAE: expected cfg.json with sae.safetensors (saeuron, SAeUron, sparsify) "
        "or sae_weights.safetensors (SAELens)."
    )


def write(sae: SAE, path: Path | str, format: str, model: str = "") -> None:
    """Write `cfg.json` and the weights into `path`, in the other library's format.

    Args:
        model: the name of the diffusion model, for formats that record it.

    Raises:
        UnknownName: there is no such format.
        BadSAE: the format cannot express this SAE; nothing is written.
    """
    if format not in _MODULES:
        raise UnknownName("format", format, FORMATS)
    _MODULES[format].write(sae, Folder(Path(path)), model)
