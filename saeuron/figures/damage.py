"""Damage of a removal: how often each other concept is still drawn, and what judges see instead."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saeuron.figures.metrics import Judged, paired_loss


@dataclass(frozen=True)
class Damage:
    """One other concept: the fractions of the images that ask for it in which its judge sees it, paired by image."""

    harmed: str
    domain: str
    """Domain of `harmed`."""
    before: float
    """Share without the removal."""
    after: float
    """Share with the removal."""
    loss: float
    """before - after."""
    low: float
    """Ends of the 95 % interval of the loss, see `saeuron.figures.metrics.paired_loss`."""
    high: float
    certain: bool
    """Whether the interval is above 0. By chance this holds for about one of 40 concepts that lose nothing."""
    n: int
    """Images."""
    n_prompts: int


def damage(domain: str, concept: str, edited: Sequence[Judged], unedited: Sequence[Judged]) -> list[Damage]:
    """The damage to every concept but the removed one, the largest loss first. Concepts without a judge are left out.

    Args:
        domain, concept: what was removed.
        edited, unedited: the same requests, with and without the removal, paired by (prompt, index).
    """
    plain = {(j.prompt_id, j.index): j for j in unedited}
    pairs: dict[tuple[str, str], list[tuple[Judged, Judged]]] = {}
    for after in edited:
        before = plain[after.prompt_id, after.index]
        for where, asked in after.asked.items():
            if (where, asked) != (domain, concept) and after.seen.get(where) and before.seen.get(where):
                pairs.setdefault((where, asked), []).append((before, after))
    found = []
    for (where, asked), images in pairs.items():
        right = [(before.right(where), after.right(where)) for before, after in images]
        prompts = [after.prompt_id for _, after in images]
        loss, low, high = paired_loss(right, prompts)
        shares = [sum(column) / len(right) for column in zip(*right, strict=True)]
        found.append(
            Damage(asked, where, shares[0], shares[1], loss, low, high, low > 0, len(right), len(set(prompts)))
        )
    return sorted(found, key=lambda d: (-d.loss, d.domain != domain, d.domain, d.harmed))


@dataclass(frozen=True)
class Confusion:
    """Number of images that ask for one concept and in which the judge sees a given label."""

    domain: str
    asked: str
    seen: str
    n: int
    """Images with the removal."""
    n_unedited: int
    """The same of the unedited model."""


def confusion(edited: Sequence[Judged], unedited: Sequence[Judged]) -> list[Confusion]:
    """Counts of (domain, asked, seen), sorted by name."""
    counts = [
        Counter((d, asked, seen) for j in images for d, asked in j.asked.items() if (seen := j.seen.get(d)))
        for images in (edited, unedited)
    ]
    return [Confusion(*key, counts[0][key], counts[1][key]) for key in sorted(counts[0] | counts[1])]


def mistaken(found: Sequence[Confusion]) -> list[Confusion]:
    """Labels that are seen and were not asked for, of `confusion`; those that the removal adds most come first."""
    wrong = (c for c in found if c.asked != c.seen and (c.n or c.n_unedited))
    return sorted(wrong, key=lambda c: (c.n_unedited - c.n, -c.n))
