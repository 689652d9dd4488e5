"""Our own folders: `SAE.save` and `SAE.load`, with a check of every number."""

from dataclasses import replace

import torch

from saeuron.checkpoint import load_tensors
from saeuron.errors import BadWeights
from saeuron.interchange.folder import BadSAE, Folder, Imported, dtype_of
from saeuron.sae import SAE

WEIGHTS = "sae.safetensors"


def read(folder: Folder, hookpoint: str = "") -> Imported:
    """What `SAE.save` wrote.

    Raises:
        BadSAE: it is damaged, or its tensors do not fit.
    """
    try:
        tensors, fields = load_tensors(folder.path / WEIGHTS)
        sae = SAE.from_tensors(tensors, fields or folder.config(), str(folder.path))
    except (BadWeights, FileNotFoundError, ValueError) as error:
        raise BadSAE(str(error)) from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadSAE(f"{folder.path}: {name} holds NaN or infinity; the weights are damaged.")
    if hookpoint:
        sae.info = replace(sae.info, hookpoint=hookpoint)
    return Imported(sae, "saeuron", dtype_of(tensors["W_enc"]), folder.size(WEIGHTS))


def write(sae: SAE, folder: Folder, model: str = "") -> None:
    """What `SAE.load` reads."""
    del model
    sae.save(folder.path)
