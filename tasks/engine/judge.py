"""The judge of a domain, loaded once per process when a step first needs it."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from saeuron import extractors, judges


class DomainJudge(BaseModel):
    """The judge of one domain and its labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    """The judge's specification, as configured."""
    templates: tuple[str, ...] = ()
    """Sentences for a judge that compares images with text; empty: its own."""
    renamed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(concept, the judge's names for it); part of the judge's id."""
    id: str
    """Id of the judge's content: weights and settings."""
    labels: tuple[str, ...]
    """The labels it chooses from."""

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that enter the ids of artifacts."""
        return {"id": self.id, "labels": list(self.labels)}

    def look(self, domain: str, pictures: NDArray[np.uint8], device: str) -> list[judges.Judgement]:
        """One judgement for each image of uint8 [B, H, W, 3]."""
        return self.loaded(domain, device)(pictures, self.labels)

    def loaded(self, domain: str, device: str) -> judges.Judge:
        """The judge, loaded at the first call in this process."""
        return _load(self.spec, domain, self.templates, device, self.renamed, self.id)

    def ordinary(self, domain: str, pictures: NDArray[np.uint8], device: str) -> list[bool] | list[None]:
        """Whether each image, uint8 [B, H, W, 3], looks like the model's own; None where the judge cannot tell."""
        tell = getattr(self.loaded(domain, device), "ordinary", None)
        return tell(pictures) if tell else [None] * len(pictures)


@functools.lru_cache(maxsize=4)
def _load(
    spec: str, domain: str, templates: tuple[str, ...], device: str, renamed: tuple[tuple[str, Any], ...], content: str
) -> judges.Judge:
    # Only part of the cache key: the same folder may hold another judge later.
    del content
    return judges.create(spec, domain, templates, device, dict(renamed))


@functools.lru_cache(maxsize=1)
def extractor_of(spec: str, device: str, content: str) -> extractors.Extractor:
    """An extractor of features, loaded once; `content` is only part of the cache key, as for a judge."""
    del content
    return extractors.create(spec, device)
