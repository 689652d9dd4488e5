"""Zero-shot judge with any CLIP or SigLIP of Hugging Face: compares images with sentences about the labels."""

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import BadModel, ConfigError, first_line
from saeuron.judges.folder import ModelFolder
from saeuron.judges.judge import Judgement
from saeuron.quiet import quiet

if TYPE_CHECKING:
    import torch

MODEL = "openai/clip-vit-large-patch14"
"""The model of a judge that names none: the usual one for CLIP scores."""
TEMPLATES = ("a photo of a {label}",)
"""Sentences for the labels, if none are configured."""
_KINDS = ("clip", "siglip")
_REST = ("a photo", "a picture", "a picture of something else")
"""Sentences for an image that shows none of the labels. CHOSEN: sentences that say nothing of the subject."""
_BATCH = 32
"""Images per forward pass."""


class ClipJudge:
    """Scores the labels of a domain by the cosine between an image and sentences about each label.

    A label's direction is the normalised mean of the normalised embeddings of its sentences. Cosines are scaled as in
    the model's training. CLIP's score is a softmax over the labels, SigLIP's a sigmoid of each label by itself.

    Args:
        argument: a local folder, or a hub id with or without `@revision`; safetensors only. Empty: `MODEL`.
        domain: any; not used.
        templates: sentences with the placeholder {label}; empty: `TEMPLATES`.
        device: where the model runs, in float32.

    Raises:
        BadModel: the folder does not exist, or holds no CLIP or SigLIP. A hub id is checked at first use.
        ConfigError: a template is malformed.
    """

    labels = None
    rest = "none of these"

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        del domain
        self._model = ModelFolder("clip", argument or MODEL, _KINDS)
        self._device = device
        self._known: tuple[tuple[str, ...], Any] = ((), None)
        self._templates = tuple(templates) or TEMPLATES
        for template in self._templates:
            _check_template(template)
        if self._model.local:
            _check_tokenizer(self._model.local)

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the model's files and of the templates."""
        both = json.dumps([self._model.content, self._templates, _REST]).encode()
        return f"clip-{hashlib.sha256(both).hexdigest()[:16]}"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """(tokenizer, image processor, model)."""
        try:
            return _load(self._model.path, self._model.content, self._device)
        except Exception as error:
            raise BadModel(f"cannot load the judge's model {self._model.spec!r}: {first_line(error)}") from error

    def _directions(self, labels: tuple[str, ...]) -> "torch.Tensor":
        """Unit direction of each label, float32 [L, D]; the last result is cached."""
        import torch
        from torch.nn.functional import normalize

        if self._known[0] == labels:
            return self._known[1]

        sentences = [
            _REST if label == self.rest else [template.format(label=label) for template in self._templates]
            for label in labels
        ]
        embedded = normalize(self._texts([s for own in sentences for s in own]), dim=-1)
        means = torch.stack([own.mean(0) for own in embedded.split([len(own) for own in sentences])])
        self._known = labels, normalize(means, dim=-1)
        return self._known[1]

    def _texts(self, sentences: Sequence[str]) -> "torch.Tensor":
        """Embeddings of sentences, float32 [S, D]."""
        tokenizer, _, model = self._parts
        # SigLIP was trained on padded sentences; CLIP ignores what follows a sentence's end.
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            list(sentences), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return model.get_text_features(tokens["input_ids"].to(self._device)).pooler_output

    def _images(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """Embeddings of images, float32 [B, D]."""
        _, processor, model = self._parts
        pixels = processor(list(images), return_tensors="pt")["pixel_values"]
        return model.get_image_features(pixels.to(self._device)).pooler_output

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge images of any size.

        Raises:
            BadModel: the model cannot be loaded, or gives scores that are not finite.
        """
        import torch
        from torch.nn.functional import normalize

        _, _, model = self._parts
        found: list[Judgement] = []
        with torch.inference_mode():
            directions = self._directions(tuple(labels))
            for start in range(0, len(images), _BATCH):
                embedded = normalize(self._images(images[start : start + _BATCH]), dim=-1)
                logits = model.logit_scale.exp() * embedded @ directions.T
                if model.config.model_type == "siglip":
                    scores = (logits + model.logit_bias).sigmoid()
                else:
                    scores = logits.softmax(1)
                if not scores.isfinite().all():
                    raise BadModel(f"the judge's model {self._model.spec!r} gives scores that are not finite.")
                best, place = scores.max(1)
                found += [Judgement(labels[i], s) for i, s in zip(place.tolist(), best.tolist(), strict=True)]
        return found

    @property
    def extractor(self) -> str:
        """The name of `features`, in words and by content."""
        return f"image embedding of clip-{self._model.content[:16]}"

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The image embeddings, not normalised, float32 [B, D]."""
        import torch

        with torch.inference_mode():
            found = [self._images(images[i : i + _BATCH]).cpu().numpy() for i in range(0, len(images), _BATCH)]
        return np.concatenate(found)

    def agreement(self, images: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.float64]:
        """CLIP score of images with their texts (2104.08718, without its factor 2.5): 100 max(0, cos), float64 [B]."""
        import torch
        from torch.nn.functional import cosine_similarity

        found = []
        with torch.inference_mode():
            for i in range(0, len(images), _BATCH):
                seen, said = self._images(images[i : i + _BATCH]), self._texts(texts[i : i + _BATCH])
                found.append(100 * cosine_similarity(seen, said).clamp(min=0).double().cpu().numpy())
        return np.concatenate(found)


@functools.lru_cache(maxsize=1)
def _load(folder: Path, content: str, device: str) -> tuple[Any, Any, Any]:
    """(tokenizer, image processor, model), shared by the judges of several domains."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    del content  # Part of the cache key: the folder may hold another model later.
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # Pillow's resampling, even if torchvision is installed: the two differ.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return tokenizer, processor, model.eval().requires_grad_(False).to(device)


def _check_template(template: str) -> None:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        names = []
    if names != ["label"]:
        raise ConfigError(f"judge_templates holds {template!r}; expected one placeholder {{label}} and no other.")


def _check_tokenizer(folder: Path) -> None:
    """Raise `BadModel` if the tokenizer needs a library that is not installed."""
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file() and '"SiglipTokenizer"' in tokenizer.read_text() and not find_spec("sentencepiece"):
        raise BadModel(f"the tokenizer of {folder} needs sentencepiece; install it: pip install 'saeuron[siglip]'")
