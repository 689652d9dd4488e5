"""Folders of SAELens, checked against sae-lens 6.54.12; also configurations from before version 6.

There p = x_in W_enc + b_enc with x_in = scale * x - b_dec, if `apply_b_dec_to_input`; and x_hat is divided by the
scale. Affine maps are folded into our weights, in float64; normalisation by the row itself is refused.
"""

import reprlib
import sys
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.interchange.folder import NUMBER, BadSAE, Folder, Imported, dtype_of
from saeuron.sae.selection import Activation

VERSION = "6.54.12"
"""The version whose format is written."""
WEIGHTS = "sae_weights.safetensors"
_SCALER = "activation_scaler.json"

_VARIANTS = {
    "standard": "standard",
    "topk": "topk",
    "abstopk": "abs_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batch_topk",
    "matryoshka_batchtopk": "matryoshka",
}
"""Our names of its architectures; the last two occur only in training checkpoints."""
_TOPK = frozenset({"topk", "abstopk"})
_BATCH = frozenset({"batchtopk", "matryoshka_batchtopk"})
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("d_in", "d_sae", "k"), NUMBER),
    **dict.fromkeys(("architecture", "reshape_activations"), (str,)),
    **dict.fromkeys(("activation_fn", "activation_fn_str", "hook_name", "hook_point"), (str, NoneType)),
    **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"), (bool,)),
    # A flag in early versions.
    "normalize_activations": (str, bool, NoneType),
    "finetuning_scaling_factor": (bool, NoneType),
    "hook_point_layer": (int, list, NoneType),
    "activation_fn_kwargs": (dict, NoneType),
    "activation_fn_kwargs.k": NUMBER,
    "metadata": (dict, NoneType),
    "metadata.hook_name": (str, NoneType),
    "metadata.training_architecture": (str, NoneType),
    "metadata.training_architecture_details": (dict, NoneType),
    "metadata.training_architecture_details.k": NUMBER,
    "metadata.saeuron": (dict, NoneType),
    "metadata.saeuron.variant": (str,),
    "metadata.saeuron.k": NUMBER,
}
"""Allowed types of every field that is read."""
_NORMALISATION = {
    "layer_norm": "divides each row by its own deviation",
    "constant_norm_rescale": "divides each row by its own norm",
    "covariance_whitening": "was trained on whitened activations, and the whitening is not folded in",
}


@dataclass
class _Weights:
    """Weights in our layout, float64."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor


def read(folder: Folder, hookpoint: str = "", scale: float | None = None) -> Imported:
    """The SAE of a folder. `scale` is the factor of `expected_average_only_in`, see `saeuron.sae.interchange.read`.

    Raises:
        BadSAE: it is damaged, or computes something that has no exact equivalent here.
    """
    config, notes = folder.config(_KINDS), list[str]()
    architecture = _architecture(folder, config)
    stored = folder.tensors(WEIGHTS)
    # Written by some versions before 6; if all ones, it changes nothing.
    if bool((stored.get("scaling_factor", torch.zeros(1)) == 1).all()):
        del stored["scaling_factor"]
    width, n = folder.number(config, "d_in"), folder.number(config, "d_sae")
    tensors = folder.fitted(stored, _shapes(architecture, width, n))
    w = _weights(architecture, tensors)
    if architecture == "gated":
        notes.append("the gate is folded into one encoder and a threshold for each latent")
    rescaled = architecture in _TOPK | _BATCH and config.get("rescale_acts_by_decoder_norm", False)
    if (factor := _scale(folder, config, scale)) is not None:
        w.W_enc, w.W_dec, w.b_dec = w.W_enc * factor, w.W_dec / factor, w.b_dec / factor
        if rescaled:
            # The threshold is in units of p |w|, and |w| was just divided.
            w.threshold = w.threshold / factor
        notes.append(f"expected_average_only_in: the factor {factor:g} is folded into the weights")
    if rescaled:
        norm = w.W_dec.norm(dim=1).clamp(min=1e-8)
        w.W_enc, w.b_enc, w.W_dec = w.W_enc * norm[:, None], w.b_enc * norm, w.W_dec / norm[:, None]
        notes.append("rescale_acts_by_decoder_norm: the norms are folded into the encoder")
    if not config.get("apply_b_dec_to_input", True):
        w.b_enc = w.b_enc + w.W_enc @ w.b_dec
        notes.append("apply_b_dec_to_input is false: W_enc b_dec is added to b_enc")
    if architecture == "abstopk":
        w = _Weights(
            torch.cat([w.W_enc, -w.W_enc]),
            torch.cat([w.b_enc, -w.b_enc]),
            torch.cat([w.W_dec, -w.W_dec]),
            w.b_dec,
            torch.cat([w.threshold, w.threshold]),
        )
        notes.append(f"each signed latent is two here: f+ is latent i, f- is latent {n} + i")
    info = _info(folder, config, architecture, width, len(w.b_enc), hookpoint)
    weights = {name: value.float() for name, value in vars(w).items()}
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise BadSAE(f"{folder.path}: its weights, folded into one encoder, exceed the range of float32.")
    sae = SAE.of(info, weights)
    return Imported(sae, "saelens", dtype_of(stored["W_enc"]), folder.size(WEIGHTS), tuple(notes))


def _architecture(folder: Folder, config: dict[str, Any]) -> str:
    """Its architecture, by the name of version 6; raises BadSAE for what is not supported."""
    architecture = config.get("architecture", "standard")
    # Before version 6 a TopK SAE was a standard one with another activation function.
    activation = config.get("activation_fn", config.get("activation_fn_str")) or "relu"
    if activation == "topk" and architecture == "standard":
        architecture = "topk"
    elif activation not in ("relu", "topk"):
        raise BadSAE(f"{folder.path} has activation_fn {activation!r}; expected relu or topk.")
    if architecture not in _VARIANTS:
        raise BadSAE(
            f"{folder.path} has architecture {architecture!r}, which is not supported; known: {', '.join(_VARIANTS)}."
        )
    reshape = config.get("reshape_activations", "hook_z" if "hook_z" in _hook(config) else "none")
    if reshape != "none":
        raise BadSAE(f"{folder.path} has reshape_activations {reshape!r}: it joins attention heads; expected 'none'.")
    if config.get("finetuning_scaling_factor"):
        raise BadSAE(f"{folder.path} has a finetuning_scaling_factor, which SAELens 6 does not read either.")
    return str(architecture)


def _hook(config: dict[str, Any]) -> str:
    """The hookpoint that the configuration names."""
    named = _section(config, "metadata").get("hook_name") or config.get("hook_name") or config.get("hook_point") or ""
    # Early versions had one name for several layers, and the layer in a field of its own.
    layer = config.get("hook_point_layer")
    return str(named).replace("{layer}", str(layer)) if isinstance(layer, int) else str(named)


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    return config.get(name) or {}


def _shapes(architecture: str, width: int, n: int) -> dict[str, tuple[int, ...]]:
    own: dict[str, tuple[int, ...]] = {"b_enc": (n,)}
    match architecture:
        case "gated":
            own = {"b_gate": (n,), "b_mag": (n,), "r_mag": (n,)}
        case "jumprelu":
            own["threshold"] = (n,)
        case "batchtopk" | "matryoshka_batchtopk":
            own["topk_threshold"] = ()
    return {"W_enc": (width, n), "W_dec": (n, width), "b_dec": (width,), **own}


def _weights(architecture: str, tensors: dict[str, Tensor]) -> _Weights:
    W_enc, W_dec, b_dec = tensors["W_enc"].T, tensors["W_dec"], tensors["b_dec"]
    if architecture == "gated":
        # p = e^r a + b_mag, open where a + b_gate > 0, that is where p > b_mag - e^r b_gate.
        gain = tensors["r_mag"].exp()
        b_mag = tensors["b_mag"]
        return _Weights(W_enc * gain[:, None], b_mag, W_dec, b_dec, b_mag - gain * tensors["b_gate"])
    b_enc = tensors["b_enc"]
    threshold = tensors.get("threshold", tensors.get("topk_threshold", b_enc.new_zeros(())))
    return _Weights(W_enc, b_enc, W_dec, b_dec, threshold.expand_as(b_enc))


def _scale(folder: Folder, config: dict[str, Any], scale: float | None) -> float | None:
    """Factor by which activations are multiplied before the encoder; None if there is none."""
    kind = config.get("normalize_activations") or "none"
    kind = "expected_average_only_in" if kind is True else kind
    if kind == "none":
        if scale is not None:
            raise BadSAE(f"{folder.path} does not normalise activations, so it takes no scale (found {scale:g}).")
        return None
    if kind != "expected_average_only_in":
        why = _NORMALISATION.get(kind, "is not known here")
        raise BadSAE(f"{folder.path} has normalize_activations {kind!r}: it {why}; it cannot be imported.")
    if scale is None and folder.has(_SCALER):
        scale = folder.config({"scaling_factor": (*NUMBER, NoneType)}, _SCALER).get("scaling_factor")
    if scale is None:
        raise BadSAE(
            f"{folder.path} expects activations times a factor (expected_average_only_in) that is not in the folder; "
            "give it with --scale (1 if it was folded into the weights)."
        )
    if not 0 < scale <= sys.float_info.max:
        raise BadSAE(f"{folder.path}: the scale is {reprlib.repr(scale)}; expected a positive number.")
    return float(scale)


def _info(folder: Folder, config: dict[str, Any], architecture: str, width: int, n: int, hookpoint: str) -> SAEInfo:
    about = _section(config, "metadata")
    trained = _section(about, "training_architecture_details")
    # The training variant: recorded by `write` for our own SAEs, by SAELens for its own, else the architecture.
    own = _section(about, "saeuron")
    variant = own.get("variant") or _VARIANTS.get(str(about.get("training_architecture"))) or _VARIANTS[architecture]
    activation: Activation = "topk" if architecture in _TOPK else "threshold"
    k = config.get("k", own.get("k", trained.get("k", 0)))
    if architecture in _TOPK:
        k = folder.number({"k": _section(config, "activation_fn_kwargs").get("k"), **config}, "k")
    if not 0 <= k <= n:
        raise BadSAE(f"{folder.path} has k {reprlib.repr(k)} of {n} latents; expected at most as many.")
    # SAELens' batchtopk allows fractions; with a threshold, k only tells how it was trained.
    return folder.checked(SAEInfo(variant, width, n, round(k), hookpoint or _hook(config), activation))


def write(sae: SAE, folder: Folder, model: str = "") -> None:
    """Write a folder for sae-lens' `SAE.load_from_disk`: `topk`, or `jumprelu` for an SAE with thresholds.

    Raises:
        BadSAE: SAELens lacks the SAE's activation function.
    """
    info = sae.info
    if info.activation == "top_afa":
        raise BadSAE("SAELens has no top-AFA architecture; export it as saeuron.")
    tensors = {"W_enc": sae.W_enc.T, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    own: dict[str, Any] = {"architecture": "topk", "k": info.k, "rescale_acts_by_decoder_norm": False}
    if info.activation == "threshold":
        tensors["threshold"] = sae.threshold
        own = {"architecture": "jumprelu"}
    config = {
        "d_in": info.width,
        "d_sae": info.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "model_name": model or None,
            "hook_name": info.hookpoint or None,
            "saeuron": {"variant": info.variant, "k": info.k},
        },
        **own,
    }
    folder.save(WEIGHTS, tensors, config)
