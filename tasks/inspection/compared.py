"""Pictures of a model and real ones, looked at by the same latents, as rows of the tables of blind spots."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.blindspots.dictionary import DictionaryConfig, Strengths, learn, strengths
from saeuron.blindspots.features import Features
from saeuron.blindspots.naming import fires, is_name, named, words
from saeuron.blindspots.pairs import copied_below, energies, nearest, shifts
from saeuron.blindspots.prevalence import Prevalence, prevalence
from saeuron.blindspots.real import Picture
from saeuron.blindspots.samples import Sample
from saeuron.blindspots.unusual import shuffled, usual
from saeuron.generation import Request
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.explanations import Explanation
from tasks.engine import progress


class Looked(NamedTuple):
    """Latents, and their strengths in pictures."""

    sae: SAE
    real: Strengths
    generated: Strengths
    chosen: Strengths
    judged: Strengths
    control: tuple[Strengths, Strengths]
    """Two sides of real pictures."""
    moved: Sequence[NDArray[np.float64]]
    """xi of generated pictures at each shift."""
    fresh: Sequence[NDArray[np.float64]] | None
    """The same of other real pictures of the same prompts."""
    without: Strengths | None
    """Of pictures of the model beside, one for each generated one."""


def look(
    seeing: Features,
    found: Sample,
    pictures: NDArray[np.uint8],
    without: NDArray[np.uint8] | None,
    dictionary: DictionaryConfig,
) -> Looked:
    """Learn latents of the rows of all sides, and look for them in every picture."""
    real, generated = _rows(seeing, found.real), seeing.rows(pictures)
    total = dictionary.steps
    beside = seeing.rows(without) if without is not None else None
    sides = [side[: found.learned] for side in (real, generated, beside) if side is not None]
    sides += [_rows(seeing, found.further)] if found.further else []
    sae = learn(
        torch.cat(sides).flatten(0, 1),
        dictionary,
        lambda point: progress.tell("blindspots", point.step, total, "steps of training"),
    )
    others = [strengths(sae, _rows(seeing, side)) for side in (found.chosen, found.judged, *found.control)]
    ours = strengths(sae, real), strengths(sae, generated)
    unedited = strengths(sae, beside) if beside is not None else None

    def moved(of: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        return [strengths(sae, seeing.rows(each)).mean for each in shifts(of)]

    fresh = moved(np.stack([p.pixels for p in found.control[1]])) if found.fresh else None
    return Looked(sae, *ours, others[0], others[1], (others[2], others[3]), moved(pictures), fresh, unedited)


def _rows(seeing: Features, pictures: Sequence[Picture]) -> Tensor:
    return seeing.rows(np.stack([p.pixels for p in pictures]))


def rules_of(found: Sample, requests: Sequence[Request], looked: Looked) -> list[Explanation]:
    """The rule of each latent; from generated pictures and their prompts where nothing says what real ones show."""
    if found.labelled:
        labels = ([p.labels for p in side] for side in (found.chosen, found.judged))
        return named(looked.chosen, next(labels), looked.judged, next(labels))
    shown: list[dict[str, str | None]] = [{**r.prompt.concepts} for r in requests]
    shown = shown if any(shown) else words([r.prompt.text for r in requests])
    half = len(shown) // 2
    made = looked.generated
    return named(made.take(slice(half)), shown[:half], made.take(slice(half, None)), shown[half:])


def change_of(looked: Looked, seed: int) -> Prevalence | None:
    """What is drawn less or more often than by the model beside; None: there is none."""
    if looked.without is None:
        return None
    counted = fires(looked.chosen, looked.without), fires(looked.chosen, looked.generated)
    return prevalence(looked.without.mean, looked.generated.mean, seed, "change", counted=counted)


def latent_rows(
    rules: Sequence[Explanation],
    seen: Prevalence,
    control: Prevalence,
    change: Prevalence | None,
    ends: tuple[int, int],
) -> list[dict[str, Any]]:
    """Rows of `prevalence`."""
    return [
        {
            "latent": i,
            "rule": rule.rule.words if rule.rule else None,
            "concepts": [concept for _, concept in rule.rule.values] if rule.rule else [],
            "f1": rule.f1,
            "named": is_name(rule),
            "real": float(seen.real[i]),
            "generated": float(seen.generated[i]),
            "share": _number(seen.share[i]),
            "low": _number(seen.low[i]),
            "high": _number(seen.high[i]),
            "delta": float(seen.delta[i]),
            "q": _number(seen.q[i]),
            "verdict": seen.verdict[i],
            "control_share": _number(control.share[i]),
            "control": control.verdict[i],
            "beside": float(change.real[i]) if change else None,
            "change": _number(change.share[i]) if change else None,
            "change_low": _number(change.low[i]) if change else None,
            "change_high": _number(change.high[i]) if change else None,
            "change_q": _number(change.q[i]) if change else None,
            "changed": change.verdict[i] if change else None,
            "n_real": ends[0],
            "n_generated": ends[1],
        }
        for i, rule in enumerate(rules)
    ]


def pair_rows(found: Sample, requests: Sequence[Request], looked: Looked) -> list[dict[str, Any]]:
    """Rows of `pairs`: energies to the real picture of the prompt, of another prompt, and to the nearest one."""
    real, made = looked.real.mean, looked.moved
    near, limit = nearest(made, real), copied_below(real, made, looked.fresh)
    own = energies(made, real) if found.paired else None
    other = energies(made, np.roll(real, 1, 0)) if found.paired else None
    return [
        {
            "prompt_id": request.prompt.id,
            "image_index": request.index,
            "real": found.real[i].name if found.paired else None,
            "energy": float(own[i]) if own is not None else None,
            "control": float(other[i]) if other is not None else None,
            "nearest": found.real[near.place[i]].name,
            "nearest_energy": float(near.energy[i]),
            "copied_below": limit,
            "copied": bool(near.energy[i] < limit),
        }
        for i, request in enumerate(requests)
    ]


def ood_rows(found: Sample, requests: Sequence[Request], looked: Looked, seed: int) -> list[dict[str, Any]]:
    """Rows of `ood`, of real pictures and of generated ones; nothing is called unusual if too few were held out."""
    ordinary = usual(looked.chosen, [p.labels if found.labelled else {} for p in found.chosen], looked.judged)
    rows = []
    names = {"real": [p.name for p in found.real], "generated": [r.key for r in requests]}
    sides = {"real": looked.real, "generated": looked.generated}
    if found.fresh:
        names["new"], sides["new"] = [p.name for p in found.control[1]], looked.control[1]
    known = bool(np.isfinite(ordinary.threshold))
    for kind, side in sides.items():
        scores, by_chance = ordinary.score(side), shuffled(ordinary, side, seed)
        for name, score, chance in zip(names[kind], scores, by_chance, strict=True):
            row = {"kind": kind, "image": name, "score": float(score), "control": float(chance)}
            row |= {"threshold": ordinary.threshold if known else None}
            rows.append(row | {"is_ood": bool(score > ordinary.threshold) if known else None})
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
