"""A prompt, and how some of many are chosen."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from saeuron.config import Split

SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Prompt:
    """One sentence, the split it belongs to, and what it asks for: {domain: concept}."""

    text: str
    split: str
    concepts: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    """Seed of the noise of its first image, as a benchmark gives it; None: the run's."""
    guidance: float | None = None
    """Guidance scale of its images, as a benchmark gives it; None: the run's."""
    source: str = field(default="", compare=False)
    """The file of a benchmark that it comes from; empty: templates, or a file of one's own. A benchmark's prompts are
    all evaluated; of others, one for each combination of concepts."""

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits: of the text, and of its own seed and guidance where it has them."""
        own = "" if self.seed is None and self.guidance is None else f"\x1f{self.seed}\x1f{self.guidance}"
        return hashlib.sha256((self.text + own).encode()).hexdigest()[:16]


def choose(prompts: Iterable[Prompt], count: int, seed: int) -> list[Prompt]:
    """At most `count` of the prompts, by a seeded hash of their ids.

    Adding prompts never changes the relative order of the others, so a growing set keeps most of its members.
    """
    ranked = sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}:{p.id}".encode()).digest())
    return ranked[:count]


def cells(prompts: Iterable[Prompt]) -> dict[tuple[tuple[str, str], ...], list[Prompt]]:
    """Prompts grouped by the concepts they ask for, keyed by the sorted (domain, concept) pairs."""
    groups: dict[tuple[tuple[str, str], ...], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(tuple(sorted(prompt.concepts.items())), []).append(prompt)
    return dict(sorted(groups.items()))
