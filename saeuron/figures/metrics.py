"""UA, IRA and CRA with their ceilings and intervals (UnlearnCanvas, 2402.11846).

A removal is measured for one concept. A classifier of each domain judges the images.

    UA          1 - accuracy of the concept's domain on images asked to show it
    IRA         that accuracy on images asked to show the other concepts of the domain, mean over concepts
    CRA         accuracy of the other domain on all images that cross both domains, the concept's own included
    CRA-retained, CRA-target   CRA on the images that do not, and that do, ask for the concept
    IRA-drop, CRA-drop   share of the images of IRA, or of CRA, that are right without the removal, minus that with it

A blank image has lost the concept and everything else: UA counts it as a success, CRA-target does not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saeuron.figures.words import a

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Judged:
    """One image: what it was asked to show, and what the judges saw, {domain: concept}; None: no judge."""

    prompt_id: str
    index: int
    """Number of the image among those of its prompt, from 0."""
    asked: Mapping[str, str]
    seen: Mapping[str, str | None]

    def right(self, domain: str) -> bool:
        """Whether the judge of `domain` saw the concept that was asked for."""
        return self.seen.get(domain) == self.asked.get(domain)


@dataclass(frozen=True)
class Metric:
    """One figure of one removal. None: there is no judge, or no image."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    unedited: float | None
    """The unedited model's figure on the same prompts and seeds."""
    unedited_low: float | None
    unedited_high: float | None
    n_images: int
    n_prompts: int
    image_set: str
    """The images that the figure covers, in words."""
    domain: str = ""
    """The domain that was judged: another one than the concept's in CRA."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927).

    Raises:
        ValueError: there are no trials.
    """
    if trials <= 0:
        raise ValueError("wilson needs at least one trial")
    p, z2 = successes / trials, Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # Exact at the ends, where rounding could put the proportion outside its interval.
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0


_TOGETHER = 250
"""Bootstrap draws computed at once."""


def bootstrap_by_prompt(
    values: NDArray[np.float64],
    prompts: Sequence[str],
    concepts: Sequence[str] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> tuple[float, float]:
    """95 % percentile interval of a mean over images clustered by prompt: whole prompts are resampled.

    Args:
        values: float64 [n], one per image, such as paired differences.
        prompts: [n], prompt ids.
        concepts: [n], equal for all images of a prompt. If given, the mean is over concepts, those in the draw.
    """
    _, first, group = np.unique(np.asarray(prompts), return_index=True, return_inverse=True)
    sums, counts = np.bincount(group, weights=values), np.bincount(group)
    names = np.asarray(concepts)[first] if concepts is not None else np.zeros(len(first))
    member = (names[:, None] == np.unique(names)).astype(np.float64)
    generator, means, size = np.random.default_rng(seed), [], len(counts)
    # In batches of draws: all at once would need much memory for thousands of prompts.
    for start in range(0, draws, _TOGETHER):
        rows = min(_TOGETHER, draws - start)
        drawn = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        for total, of_concept in zip((times * sums) @ member, (times * counts) @ member, strict=True):
            there = of_concept > 0
            means.append(np.mean(total[there] / of_concept[there]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Question:
    """One metric: its images, the judged domain, and whether a wrong answer is the success."""

    metric: str
    domain: str
    wrong: bool
    image_set: str
    member: Callable[[Judged], bool]
    by: str | None = None
    """If given, average over the concepts of this domain instead of images."""


def questions(domain: str, concept: str, others: Sequence[str]) -> list[Question]:
    """The metrics of a removal of `concept` that are shares of images; `others` are the other domains."""

    def shows(j: Judged) -> bool:
        return j.asked.get(domain) == concept

    def sibling(j: Judged) -> bool:
        return domain in j.asked and j.asked[domain] != concept

    questions = [
        Question("UA", domain, True, f"asked to show {concept}", shows),
        Question("IRA", domain, False, f"asked to show another {domain}", sibling, by=domain),
    ]
    for other in others:
        tag = "" if len(others) == 1 else f" ({other})"

        def crossed(j: Judged, other: str = other) -> bool:
            return other in j.asked and domain in j.asked

        def retained(j: Judged, other: str = other) -> bool:
            return other in j.asked and sibling(j)

        def target(j: Judged, other: str = other) -> bool:
            return other in j.asked and shows(j)

        questions += [
            Question(f"CRA{tag}", other, False, f"asked to show {a(domain)} and {a(other)}", crossed),
            Question(f"CRA-retained{tag}", other, False, f"the same, another {domain} than {concept}", retained),
            Question(f"CRA-target{tag}", other, False, f"the same, {concept} alone", target),
        ]
    return questions


def _figure(q: Question, images: Sequence[Judged]) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) over the images.

    Wilson for one proportion, a bootstrap by prompt for a mean of means. Where prompts have several images, which are
    alike, a proportion has the wider of both at each end: more images of the same prompts say little about others.
    """
    if not images or any(j.seen.get(q.domain) is None for j in images):
        return None, None, None
    success = np.array([j.right(q.domain) != q.wrong for j in images], dtype=np.float64)
    prompts = [j.prompt_id for j in images]
    if q.by is None:
        value, (low, high) = float(success.mean()), wilson(int(success.sum()), len(success))
        if len({*prompts}) < len(prompts):
            least, most = bootstrap_by_prompt(success, prompts)
            low, high = min(low, least), max(high, most)
        return value, low, high
    names = [j.asked[q.by] for j in images]
    _, group = np.unique(names, return_inverse=True)
    value = float((np.bincount(group, weights=success) / np.bincount(group)).mean())
    low, high = bootstrap_by_prompt(success, prompts, names)
    return value, min(low, value), max(high, value)


def evaluate(
    domain: str, concept: str, domains: Sequence[str], edited: Sequence[Judged], unedited: Sequence[Judged]
) -> list[Metric]:
    """Every metric of one removal.

    Args:
        domain, concept: what was removed.
        domains: all domains of the run.
        edited, unedited: the same requests, with and without the removal, paired by (prompt, index).

    Raises:
        ValueError: the two sets differ in their requests; dropping some would change a denominator silently.
    """
    key = {(j.prompt_id, j.index) for j in edited}
    if key != {(j.prompt_id, j.index) for j in unedited} or len(key) != len(edited) or len(key) != len(unedited):
        raise ValueError("edited and unedited images are not of the same prompts and indices")
    result = []
    for q in questions(domain, concept, [d for d in domains if d != domain]):
        mine, plain = [j for j in edited if q.member(j)], [j for j in unedited if q.member(j)]
        value, low, high = _figure(q, mine)
        base, base_low, base_high = _figure(q, plain)
        prompts = len({j.prompt_id for j in mine})
        ends = (value, low, high, base, base_low, base_high)
        result.append(Metric(q.metric, *ends, len(mine), prompts, q.image_set, q.domain))
    drops = (_drop(q, edited, unedited) for q in questions(domain, concept, [d for d in domains if d != domain]))
    return result + [drop for drop in drops if drop]


def _drop(q: Question, edited: Sequence[Judged], unedited: Sequence[Judged]) -> Metric | None:
    """Accuracy that the images of IRA or CRA lose, paired by image; None for another metric, or without a judge."""
    name, *tag = q.metric.split(" ", 1)
    mine = [j for j in edited if q.member(j)]
    if name not in ("IRA", "CRA") or not mine or any(j.seen.get(q.domain) is None for j in mine):
        return None
    plain = {(j.prompt_id, j.index): j for j in unedited}
    right = [(plain[j.prompt_id, j.index].right(q.domain), j.right(q.domain)) for j in mine]
    prompts = [j.prompt_id for j in mine]
    value, low, high = paired_loss(right, prompts)
    return Metric(
        " ".join([f"{name}-drop", *tag]), value, low, high, 0.0, 0.0, 0.0, len(mine), len(set(prompts)),
        f"{q.image_set}, paired with the unedited image", q.domain,
    )  # fmt: skip


def paired_loss(right: Sequence[tuple[bool, bool]], prompts: Sequence[str]) -> tuple[float, float, float]:
    """(loss, low, high): the share that is right before minus the share that is right after, with its 95 % interval.

    At each end it is the wider of two intervals. That of Bonett and Price (2012) for paired proportions is valid with
    few images, but takes them as independent. The bootstrap by prompt allows for images of a prompt being alike, but is
    too narrow with few prompts.

    Args:
        right: (before, after) of each image, at least one.
        prompts: their prompts.
    """
    n = len(right)
    lost, gained = sum(b and not a for b, a in right), sum(a and not b for b, a in right)
    p, q = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low, high = bootstrap_by_prompt(np.array([float(b) - float(a) for b, a in right]), prompts)
    return (lost - gained) / n, max(-1.0, min(low, p - q - half)), min(1.0, max(high, p - q + half))


def summary(metrics: Sequence[Metric]) -> float | None:
    """(UA + IRA + CRA) / 3, the figure that tuning maximises; None if one of them is None.

    With several other domains, CRA is the mean of theirs. Without another domain it is (UA + IRA) / 2.
    """
    parts = []
    crossed = any(m.metric.split(" ")[0] == "CRA" for m in metrics)
    for name in ("UA", "IRA", "CRA") if crossed else ("UA", "IRA"):
        values = [m.value for m in metrics if m.metric.split(" ")[0] == name]
        known = [v for v in values if v is not None]
        if not values or len(known) < len(values):
            return None
        parts.append(sum(known) / len(known))
    return sum(parts) / len(parts)
