"""Who judges a domain; a judge is loaded once in each process, when a step first needs it."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from saeuron import judges


class DomainJudge(BaseModel):
    """Who judges one domain, and by which labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    """As configured: where the judge is found."""
    templates: tuple[str, ...] = ()
    id: str
    """The judge by its content: what counts."""
    labels: tuple[str, ...]
    """What it chooses among."""

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the ids of artifacts."""
        return {"id": self.id, "labels": list(self.labels)}

    def look(self, domain: str, pictures: NDArray[np.uint8], device: str) -> list[judges.Judgement]:
        """Judge uint8 [B, H, W, 3]; the judge is loaded once in each process."""
        return _load(self.spec, domain, self.templates, device, self.id)(pictures, self.labels)


@functools.lru_cache(maxsize=4)
def _load(spec: str, domain: str, templates: tuple[str, ...], device: str, content: str) -> judges.Judge:
    del content  # Another judge may lie where this one was found.
    return judges.create(spec, domain, templates, device)
