"""What each latent fires on, as a rule in words: chosen on some images, judged on new ones, without a language model.

    A_i(image) = mean over steps of max over positions of f_i
    latent i fires on the images where A_i > share * (its largest A_i on the images that rules are chosen on)
    precision = P(it fires | the rule holds), recall = P(the rule holds | it fires)

A rule speaks of the labels of an image: one value, two values of different domains, or up to four values of one domain.
Rules that are searched for always fit the images that they were searched on, hence the new images. After the scoring of
explanations by prediction in RecSAE (2411.06112) and by detection in MAIRA-2 (2507.12950).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from saeuron.figures.metrics import wilson

Labels = Mapping[str, str | None]
"""{domain: what an image shows}; None or missing: nothing of the domain."""
Form = Literal["one", "both", "any"]
MOST = 4
"""Values in a rule of the form `any`."""
_CHUNK = 1024
"""Latents whose rules are chosen at once: bounds the memory, [rules, latents]."""


class Rule(NamedTuple):
    """A condition on an image's labels."""

    form: Form
    """`one` value; `both` of two values of different domains; `any` of two to four values of one domain."""
    values: tuple[tuple[str, str], ...]
    """(domain, concept), sorted."""

    def holds(self, labels: Labels) -> bool:
        """Whether it is true of an image."""
        true = [labels.get(domain) == concept for domain, concept in self.values]
        return all(true) if self.form == "both" else any(true)

    @property
    def words(self) -> str:
        """Such as `style is neon`, `object is cat and style is neon`, `object is cat, dog or fish`."""
        if self.form == "both":
            return " and ".join(f"{domain} is {concept}" for domain, concept in self.values)
        *some, last = (concept for _, concept in self.values)
        return f"{self.values[0][0]} is " + (f"{', '.join(some)} or {last}" if some else last)


class Explanation(NamedTuple):
    """The rule of one latent, and how well it predicts on new images where the latent fires."""

    latent: int
    rule: Rule | None
    """None: no rule holds on an image where it fires, such as for a latent that is silent; all figures are 0 then."""
    threshold: float
    """The latent fires on images where A_i is above this."""
    chosen_f1: float
    """F1 on the images that the rule was chosen on."""
    precision: float
    """Share of the new images where the rule holds on which the latent fires; 0 if it holds on none."""
    recall: float
    """Share of the new images on which the latent fires where the rule holds; 0 if it fires on none."""
    f1: float
    """Harmonic mean of precision and recall."""
    confidence: float
    """Harmonic mean of the lower ends of their 95 % Wilson intervals."""
    balanced_accuracy: float
    """Mean of the recall and of the share of silent images where the rule does not hold."""
    fires: int
    """New images on which the latent fires."""
    holds: int
    """New images where the rule holds."""
    images: int
    """New images."""


def explain(
    chosen: Tensor, chosen_labels: Sequence[Labels], judged: Tensor, judged_labels: Sequence[Labels], share: float = 0.3
) -> list[Explanation]:
    """The rule of every latent.

    Args:
        chosen: A, float32 [n, N], of the images on which rules are chosen.
        chosen_labels: [n], what they show.
        judged, judged_labels: the same of the new images, [m, N] and [m].
        share: a latent fires above this share of its largest A.

    Returns:
        N entries, silent latents included.
    """
    thresholds = share * chosen.amax(0).clamp(min=0)
    rules = choose(chosen > thresholds, chosen_labels)
    fires = judged > thresholds
    held: dict[Rule, Tensor] = {}
    found = []
    for i, (rule, chosen_f1) in enumerate(rules):
        if rule is None:
            counts = int(fires[:, i].sum()), 0, len(judged_labels)
            found.append(Explanation(i, None, float(thresholds[i]), *(0.0,) * 6, *counts))
            continue
        if rule not in held:
            held[rule] = torch.tensor([rule.holds(labels) for labels in judged_labels])
        figures = agreement(fires[:, i], held[rule])
        found.append(Explanation(i, rule, float(thresholds[i]), chosen_f1, *figures))
    return found


def agreement(fires: Tensor, holds: Tensor) -> tuple[float, float, float, float, float, int, int, int]:
    """(precision, recall, F1, confidence, balanced accuracy, fires, holds, images) of bool [m] and [m]."""
    hits, fired, held, images = int((fires & holds).sum()), int(fires.sum()), int(holds.sum()), len(fires)
    precision, recall = hits / max(held, 1), hits / max(fired, 1)
    f1 = 2 * hits / max(fired + held, 1)
    low = [wilson(hits, n)[0] if n else 0.0 for n in (held, fired)]
    confidence = 2 * low[0] * low[1] / sum(low) if sum(low) else 0.0
    silent = images - fired
    # A latent that fires on every image, or on none, distinguishes nothing.
    balanced = (recall + (silent - (held - hits)) / silent) / 2 if fired and silent else 0.5
    return precision, recall, f1, confidence, balanced, fired, held, images


def choose(fires: Tensor, labels: Sequence[Labels]) -> list[tuple[Rule | None, float]]:
    """The rule with the highest F1 for each latent, and that F1. Of equal rules one value comes before two of different
    domains, these before several of one domain, and then the first by name.

    Rules of several values of one domain are grown one value at a time, for as long as F1 rises.

    Args:
        fires: bool [n, N], the images on which each latent fires.
        labels: [n], what the images show.
    """
    return [
        rule
        for start in range(0, fires.shape[1], _CHUNK)
        for rule in _chosen(fires[:, start : start + _CHUNK].float(), labels)
    ]


def _chosen(fires: Tensor, labels: Sequence[Labels]) -> list[tuple[Rule | None, float]]:
    domains = sorted({domain for each in labels for domain in each})
    shown = {d: sorted({v for each in labels if (v := each.get(d)) is not None}) for d in domains}
    fired, latents = fires.sum(0), fires.shape[1]
    best = torch.zeros(latents, dtype=torch.float64)
    rules: list[Rule | None] = [None] * latents

    def offer(f1: Tensor, rule: list[Rule]) -> None:
        better = f1 > best
        for i in better.nonzero().flatten().tolist():
            rules[i], best[i] = rule[i], f1[i]

    grown = []
    for domain in domains:
        values = shown[domain]
        if not values:
            continue
        holds = torch.tensor([[each.get(domain) == v for v in values] for each in labels], dtype=torch.float32)
        sizes = _grow(holds, fires, fired)
        single = [Rule("one", ((domain, values[int(first)]),)) for first in sizes[0].parts[0]]
        offer(sizes[0].f1, single)
        grown += [(domain, values, size) for size in sizes[1:]]
    for left, right in itertools.combinations(domains, 2):
        pairs = sorted({(a, b) for e in labels if (a := e.get(left)) is not None and (b := e.get(right)) is not None})
        if pairs:
            # A pair is one value of a domain of pairs.
            together = [(each.get(left), each.get(right)) for each in labels]
            holds = torch.tensor([[both == pair for pair in pairs] for both in together], dtype=torch.float32)
            f1, which = _f1(holds.T @ fires, holds.sum(0)[:, None], fired).max(0)
            offer(f1, [Rule("both", ((left, pairs[int(i)][0]), (right, pairs[int(i)][1]))) for i in which])
    for domain, values, size in grown:
        named = [tuple(sorted((domain, values[int(v)]) for v in parts)) for parts in size.parts.T]
        offer(size.f1, [Rule("any", concepts) for concepts in named])
    return [(rule, float(f1)) for rule, f1 in zip(rules, best, strict=True)]


class _Size(NamedTuple):
    """The rules of j values of one domain: F1, float64 [N], 0 where one more does not help; the values, [j, N]."""

    f1: Tensor
    parts: Tensor


def _grow(holds: Tensor, fires: Tensor, fired: Tensor) -> list[_Size]:
    """Rules of 1 to MOST values, greedily. An image shows one value of a domain, so hits of values add up."""
    hits, sizes = holds.T @ fires, holds.sum(0)[:, None].expand(-1, fires.shape[1])
    all_hits, all_sizes = torch.zeros_like(fired), torch.zeros_like(fired)
    taken = torch.zeros_like(hits, dtype=torch.bool)
    so_far = torch.zeros(fires.shape[1], dtype=torch.float64)
    going = torch.ones(fires.shape[1], dtype=torch.bool)
    parts: list[Tensor] = []
    found = []
    for _ in range(min(MOST, len(hits))):
        f1, which = _f1(all_hits + hits, all_sizes + sizes, fired).masked_fill(taken, -1).max(0)
        going = going & (f1 > so_far)
        so_far = torch.where(going, f1, so_far)
        at = which[None]
        taken = taken.scatter(0, at, value=True)
        all_hits, all_sizes = all_hits + hits.gather(0, at)[0], all_sizes + sizes.gather(0, at)[0]
        parts.append(which)
        found.append(_Size(torch.where(going, f1, 0), torch.stack(parts)))
    return found


def _f1(hits: Tensor, holds: Tensor, fired: Tensor) -> Tensor:
    """float64: 2 hits / (holds + fired), 0 where nothing holds and nothing fires."""
    return 2 * hits.double() / (holds + fired).double().clamp(min=1)
