"""Folders of sparsify (EleutherAI) and of SAeUron, whose class derives from an earlier version of sparsify's.

Checked against eai-sparsify 1.3.3: f = the k largest ReLU(W_enc (x - b_dec) + b_enc) of each row. SAeUron's
configurations hold three more fields: `batch_topk`, `sample_topk` and `input_unit_norm`.
"""

from typing import Any

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.interchange.folder import NUMBER, BadSAE, Folder, Imported, dtype_of

WEIGHTS = "sae.safetensors"
_REFUSED = {
    "transcode": "it is a transcoder, which predicts another module's output",
    "skip_connection": "its skip connection x W_skip has no place in an SAE's latents",
    "signed": "its latents are signed",
    "sample_topk": "it chooses k latents of a whole image, so that positions depend on one another",
    "input_unit_norm": "it normalises each row by its own mean and deviation",
}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("d_in", "k", "num_latents", "expansion_factor"), NUMBER),
    **dict.fromkeys((*_REFUSED, "batch_topk"), (bool,)),
    "activation": (str,),
}
_BATCH = (
    "trained with batch_topk, whose choice depends on the whole batch, and saved without a threshold: "
    "each row keeps its k largest here"
)


def read(folder: Folder, hookpoint: str = "") -> Imported:
    """The SAE of a folder.

    Raises:
        BadSAE: it is damaged, or computes something that has no equivalent here.
    """
    config = folder.config(_KINDS)
    _check(folder, config)
    width, k = folder.number(config, "d_in"), folder.number(config, "k")
    # A num_latents of 0 stands for expansion_factor * d_in.
    own = config.get("num_latents")
    n = folder.number(config, "num_latents") if own else width * folder.number(config, "expansion_factor")
    stored = folder.tensors(WEIGHTS)
    shapes = {"encoder.weight": (n, width), "encoder.bias": (n,), "W_dec": (n, width), "b_dec": (width,)}
    tensors = folder.fitted(stored, shapes)
    batch = config.get("batch_topk", False)
    info = folder.checked(SAEInfo("batch_topk" if batch else "topk", width, n, k, hookpoint, "topk"))
    weights = {
        "W_enc": tensors["encoder.weight"],
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
        "threshold": tensors["encoder.bias"].new_zeros(n),
    }
    notes = (_BATCH,) if batch else ()
    return Imported(SAE.of(info, weights), "sparsify", dtype_of(stored["encoder.weight"]), folder.size(WEIGHTS), notes)


def _check(folder: Folder, config: dict[str, Any]) -> None:
    if config.get("activation", "topk") != "topk":
        raise BadSAE(f"{folder.path} has activation {config['activation']!r}; of sparsify's, only 'topk' is supported.")
    for field, why in _REFUSED.items():
        if config.get(field):
            raise BadSAE(f"{folder.path} has {field}: {why}; it cannot be imported.")


def write(sae: SAE, folder: Folder, model: str = "") -> None:
    """Write a folder for `SparseCoder.load_from_disk`, and SAeUron's `Sae.load_from_disk`.

    Raises:
        BadSAE: the SAE does not keep the k largest of each row.
    """
    del model
    info = sae.info
    if info.activation != "topk":
        raise BadSAE(
            f"sparsify's format holds top-k SAEs only, and this one ({info.variant}) has "
            f"{'thresholds' if info.activation == 'threshold' else 'a choice of its own'}: export it as "
            f"{'saelens or saeuron' if info.activation == 'threshold' else 'saeuron'}."
        )
    tensors = {
        "encoder.weight": sae.W_enc,
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    norms = sae.W_dec.detach().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, info.n_latents // info.width),
        "normalize_decoder": bool(((norms - 1).abs() < 1e-3).all()),
        "num_latents": info.n_latents,
        "k": info.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": info.width,
    }
    folder.save(WEIGHTS, tensors, config)
