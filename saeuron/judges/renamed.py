"""A judge whose labels are named otherwise than the concepts: one or several of its labels mean one concept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.config import twice
from saeuron.errors import ConfigError, UnknownName
from saeuron.judges.judge import Judge, Judgement


class Renamed:
    """The judge `inner`, with its answers in the concepts' names; all else is as `inner` has it.

    Args:
        inner: the judge.
        labels: {concept: the labels that mean it}, such as {"cat": ["tabby", "Egyptian cat"]}. For a judge that takes
            any labels they are words to compare an image with. Labels that no concept takes keep their names.

    Raises:
        UnknownName: the judge has no such label.
        ConfigError: two concepts take the same label.
    """

    def __init__(self, inner: Judge, labels: Mapping[str, Sequence[str]]) -> None:
        self._inner = inner
        self._told = {concept: tuple(names) for concept, names in labels.items()}
        self._concept = {name: concept for concept, names in self._told.items() for name in names}
        known = inner.labels
        for name in self._concept:
            if known is not None and name not in known:
                raise UnknownName("label", name, known, "(judge_labels)")
        if (again := twice(name for names in self._told.values() for name in names)) is not None:
            raise ConfigError(f"judge_labels gives {again!r} twice; expected each label for one concept.")
        rest = [] if known is None else [name for name in known if name not in self._concept]
        self.labels = None if known is None else tuple(dict.fromkeys((*self._told, *rest)))

    @property
    def identity(self) -> str:
        """The judge's identity and a hash of the names."""
        told = hashlib.sha256(json.dumps(sorted(self._told.items())).encode()).hexdigest()[:8]
        return f"{self._inner.identity}-named-{told}"

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge with the judge's own labels, and translate its answers."""
        asked = [name for label in labels for name in self._told.get(label, (label,))]
        said = self._inner(images, asked)
        return [each._replace(label=self._concept.get(each.label, each.label)) for each in said]  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
