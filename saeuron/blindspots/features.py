"""The features of a picture from a vision model: a row of D numbers at each of P positions.

`canvas` and `canvas20` are the bodies of the shipped classifiers, 16 positions of width 128. Anything else is a vision
model of Hugging Face, by a folder or a hub id: its last hidden state without the tokens that stand for no place.
"""

import functools
import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.canvas.classifier import judge_file, load_classifier
from saeuron.canvas.vocabularies import VOCABULARIES, Vocabulary
from saeuron.errors import BadModel, ConfigError, UnknownName, first_line
from saeuron.judges.folder import ModelFolder
from saeuron.quiet import quiet

_BATCH = 32
"""Pictures per forward pass."""
Pictures = NDArray[np.uint8]
"""uint8 [B, H, W, 3]."""


class Features(Protocol):
    """A vision model."""

    @property
    def identity(self) -> str:
        """Its id by content."""

    def rows(self, pictures: Pictures) -> Tensor:
        """float32 [B, P, D] of pictures, on the CPU."""


def features(spec: str, device: str = "cpu") -> Features:
    """The vision model of this name; weights are loaded when it is first asked for rows.

    Args:
        spec: `canvas`, `canvas20`, a local folder or a hub id.

    Raises:
        UnknownName: it looks like a misspelt name.
        BadModel: there is no such folder, or it holds no model with safetensors.
    """
    if spec in VOCABULARIES:
        return CanvasFeatures(VOCABULARIES[spec], device)
    if not Path(spec).expanduser().is_dir() and "/" not in spec and get_close_matches(spec, VOCABULARIES):
        raise UnknownName("features", spec, VOCABULARIES, "Or give a folder or a hub id of a vision model.")
    return HubFeatures(spec, device)


def check_size(spec: str, size: tuple[int, int]) -> None:
    """Raise ConfigError if this vision model cannot read pictures of a size (height, width)."""
    if spec in VOCABULARIES and size != CanvasFeatures.size:
        raise ConfigError(
            f"the features {spec!r} read pictures of 32 x 32 pixels, these have {size[0]} x {size[1]}; name a vision "
            "model by a folder or a hub id."
        )


class CanvasFeatures:
    """The body of the classifier that ships with a canvas model: [B, 16, 128]."""

    size = (32, 32)
    """Height and width of the only pictures that it reads."""

    def __init__(self, vocabulary: Vocabulary, device: str) -> None:
        self._vocabulary, self._device = vocabulary, device

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the classifier's weights."""
        return f"canvas-{hashlib.sha256(judge_file(self._vocabulary).read_bytes()).hexdigest()[:16]}"

    @functools.cached_property
    def _body(self) -> Any:
        return load_classifier(judge_file(self._vocabulary)).to(self._device).body

    def rows(self, pictures: Pictures) -> Tensor:
        """Rows of pictures of canvas's size.

        Raises:
            ConfigError: they are of another size.
        """
        check_size(self._vocabulary.name, (pictures.shape[1], pictures.shape[2]))
        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), 8 * _BATCH):
                x = torch.from_numpy(pictures[start : start + 8 * _BATCH]).to(self._device)
                maps = self._body(x.permute(0, 3, 1, 2).float() / 127.5 - 1)
                found.append(maps.flatten(2).transpose(1, 2).cpu())
        return torch.cat(found)


class HubFeatures:
    """Any vision model of Hugging Face (`AutoModel`), by a folder or a hub id; safetensors only.

    Pictures are resized and normalised as its preprocessor_config.json says, with Pillow's resampling.

    Raises:
        BadModel: there is no such folder, or it holds no model with safetensors. A hub id is checked at first use.
    """

    def __init__(self, spec: str, device: str) -> None:
        self._model = ModelFolder("features", spec, owner="the vision model", wanted="FOLDER or HUB_ID")
        self._device = device

    @property
    def identity(self) -> str:
        """Hash of the model's files."""
        return f"hub-{self._model.content[:16]}"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        """(image processor, model)."""
        from transformers import AutoImageProcessor, AutoModel

        try:
            with quiet():
                # Pillow's resampling, even if torchvision is installed: the two differ.
                processor = AutoImageProcessor.from_pretrained(self._model.path, backend="pil")
                model = AutoModel.from_pretrained(self._model.path, use_safetensors=True, dtype=torch.float32)
        except Exception as error:
            raise BadModel(f"cannot load the vision model {self._model.spec!r}: {first_line(error)}") from error
        model = getattr(model, "vision_model", model)  # the half of CLIP or SigLIP that sees
        return processor, model.eval().requires_grad_(False).to(self._device)

    def rows(self, pictures: Pictures) -> Tensor:
        """Rows of pictures of any size, all of one.

        Raises:
            BadModel: the model cannot be loaded, gives no map, or numbers that are not finite.
        """
        processor, model = self._parts
        found = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                pixels = processor(list(pictures[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
                try:
                    state = model(pixel_values=pixels.to(self._device)).last_hidden_state.float().cpu()
                except (AttributeError, TypeError, ValueError) as error:
                    raise BadModel(
                        f"{self._model.spec!r} is not a vision model that gives a map ({first_line(error)}); expected "
                        "one such as DINOv2, CLIP, SigLIP, ViT or ConvNeXt."
                    ) from error
                found.append(_positions(state, pixels.shape[2:], getattr(model.config, "patch_size", None)))
        rows = torch.cat(found)
        if not rows.isfinite().all():
            raise BadModel(f"the vision model {self._model.spec!r} gives numbers that are not finite.")
        return rows


def _positions(state: Tensor, size: Sequence[int], patch: Any) -> Tensor:
    """[B, P, D] of a last hidden state [B, C, H, W], or [B, L, D] with class and register tokens before the patches."""
    if state.dim() == 4:
        return state.flatten(2).transpose(1, 2)
    if isinstance(patch, int):
        places = (size[0] // patch) * (size[1] // patch)
        if 0 < places <= state.shape[1]:
            return state[:, state.shape[1] - places :]
    return state
