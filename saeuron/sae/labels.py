"""Concept labels of rows: which concept of each domain a row's image asks for.

A label is the concept's place among those of its domain, -1 if the image asks for none there. An image's label is that
of all its rows, whatever step and position they are of: nobody says where in the image the concept is.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import ConfigError
from saeuron.sae.config import LABELLED, SAEConfig

Concepts = Mapping[str, Sequence[str]]
"""{domain: its concepts}. The g-th column of labels is of the g-th domain; i there is its i-th concept."""


def concepts_of(asked: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The concepts that images ask for, of {domain: concept} for each image; domains and concepts are sorted."""
    found: dict[str, set[str]] = {}
    for each in asked:
        for domain, concept in each.items():
            found.setdefault(domain, set()).add(concept)
    return {domain: tuple(sorted(found[domain])) for domain in sorted(found)}


def ids(asked: Sequence[Mapping[str, str]], concepts: Concepts) -> NDArray[np.int64]:
    """Labels of images, [n, G], of {domain: concept} for each; -1 also for a concept that is not in `concepts`."""
    places = [{name: i for i, name in enumerate(names)} for names in concepts.values()]
    rows = [[place.get(each.get(d, ""), -1) for d, place in zip(concepts, places, strict=True)] for each in asked]
    return np.array(rows, dtype=np.int64).reshape(len(asked), len(concepts))


def labels_for(config: SAEConfig, concepts: Concepts | None, hookpoint: str = "") -> dict[str, tuple[str, ...]]:
    """The concepts of the labels that a variant learns from; none for one that does not.

    Raises:
        ConfigError: it learns from labels, and the rows have none.
    """
    if not config.needs_labels:
        return {}
    if not concepts or not any(concepts.values()):
        raise ConfigError(
            f"train.variant {config.variant!r} learns from concept labels, but the rows"
            f"{f' at {hookpoint}' if hookpoint else ''} have none; expected rows of a capture whose prompts name "
            f"concepts (`saeuron run`): use that, or a variant other than {' and '.join(LABELLED)}, such as topk."
        )
    return {domain: tuple(names) for domain, names in concepts.items()}
