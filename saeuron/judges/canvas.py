"""The classifiers that ship with the models canvas and canvas20: one head for objects, one for styles."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from saeuron.canvas.vocabularies import CANVAS, CANVAS20, Vocabulary
from saeuron.errors import ConfigError, UnknownName
from saeuron.judges.judge import Judgement, refuse_options


class CanvasJudge:
    """The head for the domain `object` or `style`; the score is its softmax over the labels asked for.

    Raises:
        UnknownName: the classifier has no head for the domain.
    """

    vocabulary: Vocabulary = CANVAS
    name: ClassVar[str] = "canvas"
    second: ClassVar[bool] = False
    """Whether the weights are those of the second judge."""
    size = (32, 32)
    """Height and width of the images that it reads."""

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        refuse_options(self.name, argument, templates)
        heads = {"object": self.vocabulary.objects, "style": self.vocabulary.style_classes}
        if domain not in heads:
            what = f"domain of the judge {self.name!r}"
            raise UnknownName(what, domain, heads, "Use judge: none or clip:MODEL for others.")
        self.labels = heads[domain]
        self._head = list(heads).index(domain)
        self._device = device

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the classifier's weights."""
        from saeuron.canvas.classifier import judge_file

        return f"{self.name}-{hashlib.sha256(judge_file(self.vocabulary, self.second).read_bytes()).hexdigest()[:16]}"

    @functools.cached_property
    def _model(self) -> Any:
        from saeuron.canvas.classifier import judge_file, load_classifier

        return load_classifier(judge_file(self.vocabulary, self.second)).to(self._device)

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge images of canvas's size.

        Raises:
            ConfigError: the images are of another size.
            UnknownName: the classifier does not know a label.
        """
        import torch

        if images.shape[1:3] != self.size:
            height, width = images.shape[1:3]
            raise ConfigError(
                f"the judge {self.name!r} reads images of 32 x 32 pixels, these have {height} x {width}; "
                "use judge: clip:MODEL or none."
            )
        for label in labels:
            if label not in self.labels:
                raise UnknownName(f"label of the judge {self.name!r}", label, self.labels)
        columns = [self.labels.index(label) for label in labels]
        with torch.inference_mode():
            x = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            scores, best = self._model(x)[self._head][:, columns].softmax(1).max(1)
        return [Judgement(labels[i], score) for i, score in zip(best.tolist(), scores.tolist(), strict=True)]

    @property
    def extractor(self) -> str:
        """The name of `features`, by content; the same for both heads."""
        return f"penultimate layer of {self.identity}"

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The activations that both heads read, float32 [B, D]."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return self._model.body(x).flatten(1).cpu().numpy()

    def ordinary(self, images: NDArray[np.uint8]) -> list[bool]:
        """Whether each image looks like one that the model was trained on, see `saeuron.canvas.realism`."""
        import torch

        from saeuron.canvas.realism import realism

        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        found: list[bool] = realism(self.vocabulary).ordinary(x).tolist()
        return found


class Canvas20Judge(CanvasJudge):
    """The same for images of canvas20."""

    name = "canvas20"
    vocabulary = CANVAS20


class SecondJudge(CanvasJudge):
    """Another network for canvas, trained with another seed and augmentation; nothing is tuned by it."""

    name = "canvas_second"
    second = True
