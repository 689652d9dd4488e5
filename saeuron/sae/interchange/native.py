"""This project's own folders: `SAE.save` and `SAE.load`, with a check of every number."""

import torch

from saeuron.checkpoint import load_tensors
from saeuron.errors import BadWeights
from saeuron.sae.autoencoder import SAE
from saeuron.sae.interchange.folder import BadSAE, Folder, Imported, dtype_of

WEIGHTS = "sae.safetensors"


def read(folder: Folder, hookpoint: str = "") -> Imported:
    """The SAE that `SAE.save` wrote.

    Raises:
        BadSAE: it is damaged, or its tensors do not fit.
    """
    try:
        tensors, fields = load_tensors(folder.path / WEIGHTS)
        fields = fields or folder.config()
        if hookpoint:
            fields = {**fields, "hookpoint": hookpoint}
        sae = SAE.from_tensors(tensors, fields, str(folder.path))
    except (BadWeights, FileNotFoundError) as error:
        raise BadSAE(str(error)) from error
    for name, tensor in tensors.items():
        # As float32, because isfinite lacks some eight-bit types.
        if not torch.isfinite(tensor.float()).all():
            raise BadSAE(f"{folder.path}: {name} holds NaN or infinity; the weights are damaged.")
    return Imported(sae, "saeuron", dtype_of(tensors["W_enc"]), folder.size(WEIGHTS))


def write(sae: SAE, folder: Folder, model: str = "") -> None:
    """Write a folder that `SAE.load` reads."""
    del model
    sae.save(folder.path)
