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

from saeuron.errors import BadModel, ConfigError
from saeuron.judges.judge import Judgement
from saeuron.quiet import quiet

if TYPE_CHECKING:
    import torch

TEMPLATES = ("a photo of a {label}",)
"""Sentences for the labels, if none are configured."""
_KINDS = ("clip", "siglip")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_BATCH = 32
"""Images per forward pass."""


class ClipJudge:
    """Scores the labels of a domain by the cosine between an image and sentences about each label.

    A label's direction is the normalised mean of the normalised embeddings of its sentences. Cosines are scaled as in
    the model's training. CLIP's score is a softmax over the labels, SigLIP's a sigmoid of each label by itself.

    Args:
        argument: a local folder or a hub id; safetensors only.
        domain: any; not used.
        templates: sentences with the placeholder {label}; empty: `TEMPLATES`.
        device: where the model runs, in float32.

    Raises:
        BadModel: the folder does not exist, or holds no CLIP or SigLIP. A hub id is checked at first use.
        ConfigError: the argument is missing, or a template is malformed.
    """

    labels = None

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        del domain
        if not argument:
            raise ConfigError("the judge 'clip' needs a model; expected clip:FOLDER or clip:HUB_ID.")
        self._spec = argument
        self._device = device
        self._known: tuple[tuple[str, ...], Any] = ((), None)
        self._templates = tuple(templates) or TEMPLATES
        for template in self._templates:
            _check_template(template)
        if local := _local(argument):
            _check_folder(local)

    @functools.cached_property
    def _folder(self) -> Path:
        if local := _local(self._spec):
            return local
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(self._spec, allow_patterns=list(_FILES)))
        except Exception as error:
            raise BadModel(f"cannot fetch the judge's model {self._spec!r}: {_first_line(error)}") from error
        _check_folder(folder)
        return folder

    @functools.cached_property
    def _content(self) -> str:
        """Hash of the model's files. Downloads a hub id, if needed."""
        digest = hashlib.sha256()
        for path in sorted({p for pattern in _FILES for p in self._folder.glob(pattern)}):
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the model's files and of the templates."""
        both = json.dumps([self._content, self._templates]).encode()
        return f"clip-{hashlib.sha256(both).hexdigest()[:16]}"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """(tokenizer, image processor, model)."""
        try:
            return _load(self._folder, self._content, self._device)
        except Exception as error:
            raise BadModel(f"cannot load the judge's model {self._spec!r}: {_first_line(error)}") from error

    def _directions(self, labels: tuple[str, ...]) -> "torch.Tensor":
        """Unit direction of each label, float32 [L, D]; the last result is cached."""
        from torch.nn.functional import normalize

        if self._known[0] == labels:
            return self._known[1]

        tokenizer, _, model = self._parts
        sentences = [template.format(label=label) for label in labels for template in self._templates]
        # SigLIP was trained on padded sentences; CLIP ignores what follows a sentence's end.
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer(sentences, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        embedded = model.get_text_features(tokens["input_ids"].to(self._device)).pooler_output
        means = normalize(embedded, dim=-1).unflatten(0, (len(labels), len(self._templates))).mean(1)
        self._known = labels, normalize(means, dim=-1)
        return self._known[1]

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge images of any size.

        Raises:
            BadModel: the model cannot be loaded, or gives scores that are not finite.
        """
        import torch
        from torch.nn.functional import normalize

        _, processor, model = self._parts
        found: list[Judgement] = []
        with torch.inference_mode():
            directions = self._directions(tuple(labels))
            for start in range(0, len(images), _BATCH):
                pixels = processor(list(images[start : start + _BATCH]), return_tensors="pt")["pixel_values"]
                embedded = normalize(model.get_image_features(pixels.to(self._device)).pooler_output, dim=-1)
                logits = model.logit_scale.exp() * embedded @ directions.T
                if model.config.model_type == "siglip":
                    scores = (logits + model.logit_bias).sigmoid()
                else:
                    scores = logits.softmax(1)
                if not scores.isfinite().all():
                    raise BadModel(f"the judge's model {self._spec!r} gives scores that are not finite.")
                best, place = scores.max(1)
                found += [Judgement(labels[i], s) for i, s in zip(place.tolist(), best.tolist(), strict=True)]
        return found


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_template(template: str) -> None:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        names = []
    if names != ["label"]:
        raise ConfigError(f"judge_templates holds {template!r}; expected one placeholder {{label}} and no other.")


def _local(spec: str) -> Path | None:
    """The local folder that `spec` names; None if it can only be a hub id."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or spec.startswith((".", "~")) or spec.count("/") > 1:
        raise BadModel(f"no such folder: {spec!r}; expected clip:FOLDER with a CLIP or SigLIP, or clip:HUB_ID.")
    return None


def _check_folder(folder: Path) -> None:
    """Raise `BadModel` unless a folder holds a CLIP or SigLIP with safetensors."""
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise BadModel(f"{folder} holds no model: config.json is missing or malformed.") from None
    if kind not in _KINDS:
        raise BadModel(f"{folder} holds a model of type {kind!r}; the judge 'clip' needs one of {', '.join(_KINDS)}.")
    if not any(folder.glob("*.safetensors")):
        raise BadModel(f"{folder} holds no .safetensors file; use a model that has one.")
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file() and '"SiglipTokenizer"' in tokenizer.read_text() and not find_spec("sentencepiece"):
        raise BadModel(f"the tokenizer of {folder} needs sentencepiece; install it: pip install 'saeuron[siglip]'")
