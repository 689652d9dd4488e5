"""Any image classifier of Hugging Face (`AutoModelForImageClassification`), by a folder or a hub id."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import BadModel, first_line
from saeuron.judges.folder import ModelFolder
from saeuron.judges.judge import Judgement, named_score, refuse_templates
from saeuron.quiet import quiet

_BATCH = 32
"""Images per forward pass."""


class ClassifierJudge:
    """Chooses among the classes that the model was trained on; the score is its softmax over the labels asked for.

    Labels are the names of `id2label` in config.json; `judge_labels` of the domain says which of them mean a concept.
    Images are resized and normalised as preprocessor_config.json says, with Pillow's resampling.

    Args:
        argument: a local folder, or a hub id with or without `@revision`; safetensors only.
        domain: any; not used.
        templates: none.
        device: where the model runs, in float32.

    Raises:
        BadModel: the folder does not exist, holds no classifier or no safetensors. A hub id is checked at first use.
        ConfigError: the argument is missing.
    """

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        del domain
        refuse_templates("classifier", templates)
        self._model = ModelFolder("classifier", argument)
        self._device = device

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the model's logits. Fetches a hub id, if needed."""
        from transformers import AutoConfig

        try:
            named = AutoConfig.from_pretrained(self._model.path).id2label
            return tuple(str(named[i]) for i in range(len(named)))
        except Exception as error:
            raise BadModel(f"cannot read the classes of {self._model.spec!r}: {first_line(error)}") from error

    @property
    def identity(self) -> str:
        """Hash of the model's files: weights, classes, preprocessing."""
        return f"classifier-{self._model.content[:16]}"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        """(image processor, model)."""
        try:
            return _load(self._model.path, self._model.content, self._device)
        except Exception as error:
            raise BadModel(f"cannot load the judge's model {self._model.spec!r}: {first_line(error)}") from error

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge images of any size.

        Raises:
            BadModel: the model cannot be loaded, or gives scores that are not finite.
            UnknownName: it has no such label.
        """
        import torch

        processor, model = self._parts
        found: list[Judgement] = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                pixels = processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
                logits = model(pixels.to(self._device)).logits.float()
                found += named_score("classifier", logits.cpu().numpy(), self.labels, labels)
        return found


@functools.lru_cache(maxsize=1)
def _load(folder: Path, content: str, device: str) -> tuple[Any, Any]:
    """(image processor, model), shared by the judges of several domains."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    del content  # Part of the cache key: the folder may hold another model later.
    with quiet():
        # Pillow's resampling, even if torchvision is installed: the two differ.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return processor, model.eval().requires_grad_(False).to(device)
