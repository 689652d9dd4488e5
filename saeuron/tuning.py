"""Choose the settings of a removal: try each candidate on validation images, keep the best by (UA + IRA + CRA) / 3.

Validation prompts and seeds are never those of the evaluation. Works without Prefect and without a workspace: `tune` is
the whole search.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from saeuron.config import ModelConfig, TuneConfig
from saeuron.errors import BadPrompts, ConfigError
from saeuron.evaluation import look
from saeuron.figures.metrics import Judged, Metric, evaluate, summary
from saeuron.generation import Request, spread
from saeuron.judges import Judge
from saeuron.methods.base import Evidence, Method, Need, Settings
from saeuron.methods.removal import Removal
from saeuron.prompts import Prompt, cells, choose


class Trial(NamedTuple):
    """One candidate and its figures on validation images."""

    removal: Removal
    metrics: list[Metric]
    value: float | None
    """(UA + IRA + CRA) / 3; None where something could not be judged."""


def validation_images(
    prompts: Iterable[Prompt], config: TuneConfig, domain: str, concept: str, reference: Container[str]
) -> list[Request]:
    """`target_images` of the concept, then `retained_images` of the others, stratified over them.

    Raises:
        BadPrompts: the prompt set has no validation prompts for the concept, or for others beside it.
    """
    mine, others = _one_of_each_cell(prompts, "validation", config, domain, concept, reference)
    if not mine or not others:
        raise BadPrompts(
            f"no validation prompts ask for {domain} {concept!r} and for others beside it; "
            "add templates or files with split 'validation'."
        )
    return spread(choose(mine, len(mine), config.seed), config.target_images) + _stratified(
        others, config.retained_images, config.seed
    )


def learning_images(
    needs: Container[Need],
    prompts: Iterable[Prompt],
    config: TuneConfig,
    domain: str,
    concept: str,
    reference: Container[str],
) -> tuple[list[Request], list[Request]]:
    """Training images that a method with these needs learns from: of the concept, and of others, stratified over them.

    `learning_images` of each with `activations`, none without.

    Raises:
        BadPrompts: the prompt set has no training prompts for the concept, or for others beside it.
    """
    if "activations" not in needs:
        return [], []
    mine, others = _one_of_each_cell(prompts, "train", config, domain, concept, reference)
    if not mine or not others:
        raise BadPrompts(_NO_TRAINING.format(domain=domain, concept=concept))
    count = config.learning_images
    return spread(choose(mine, len(mine), config.seed), count), _stratified(others, count, config.seed)


def learning_count(needs: Container[Need], config: TuneConfig) -> int:
    """How many training images a method with these needs learns from."""
    return 2 * config.learning_images if "activations" in needs else 0


MOST_PROMPTS = 2000
"""Prompts that a method learns from, of the concept and of the others, at most."""


def learning_prompts(
    prompts: Iterable[Prompt], config: TuneConfig, domain: str, concept: str, reference: Container[str]
) -> tuple[list[Prompt], list[Prompt]]:
    """Training prompts that ask for the concept, and those for others of its domain; a seeded sample of very many.

    Raises:
        BadPrompts: the prompt set has none of either.
    """
    found = {p.text: p for p in prompts if p.split == "train" and domain in p.concepts}.values()
    mine = [p for p in found if p.concepts[domain] == concept]
    others = [p for p in found if p.concepts[domain] != concept and p.concepts[domain] in reference]
    if not mine or not others:
        raise BadPrompts(_NO_TRAINING.format(domain=domain, concept=concept))
    return choose(mine, MOST_PROMPTS, config.seed), choose(others, MOST_PROMPTS, config.seed)


_NO_TRAINING = (
    "no training prompts ask for {domain} {concept!r} and for others beside it; "
    "add templates or files with split 'train'."
)


def _one_of_each_cell(
    prompts: Iterable[Prompt], split: str, config: TuneConfig, domain: str, concept: str, reference: Container[str]
) -> tuple[list[Prompt], dict[str, list[Prompt]]]:
    """One prompt of each combination of concepts: (those of the concept, {another concept: its own})."""
    found = {p.text: p for p in prompts}
    mine: list[Prompt] = []
    others: dict[str, list[Prompt]] = {}
    for cell, members in cells(p for p in found.values() if p.split == split).items():
        asked = dict(cell).get(domain)
        if asked == concept:
            mine.append(choose(members, 1, config.seed)[0])
        elif asked is not None and asked in reference:
            others.setdefault(asked, []).append(choose(members, 1, config.seed)[0])
    return mine, others


def _stratified(others: Mapping[str, Sequence[Prompt]], count: int, seed: int) -> list[Request]:
    """`count` images, one prompt of each concept in turn: every concept appears before any appears twice."""
    ranked = {c: choose(p, len(p), seed) for c, p in others.items()}
    turns = [p[i % len(p)] for i in range(count) for p in ranked.values()]
    chosen: dict[tuple[str, int], Request] = {}
    counts: dict[str, int] = {}
    for prompt in turns[:count]:
        index = counts.get(prompt.id, 0)
        counts[prompt.id] = index + 1
        chosen[prompt.id, index] = Request(prompt, index)
    return list(chosen.values())


def candidates(
    method: Method,
    evidence: Evidence,
    settings: Sequence[Settings] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> list[Removal]:
    """A removal for each of these settings; None: for those of the method's own grid, see `Method.candidates`."""
    learned = method.learn(evidence)
    todo = method.candidates({}) if settings is None else settings
    return [method.removal(evidence, learned, each, provenance) for each in todo]


def trial(removal: Removal, domains: Sequence[str], edited: Sequence[Judged], unedited: Sequence[Judged]) -> Trial:
    """The figures of one candidate, from what judges saw with it and without."""
    metrics = evaluate(removal.domain, removal.concept, domains, edited, unedited)
    return Trial(removal, metrics, summary(metrics))


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest value; of equal ones the first, which is the mildest.

    Raises:
        ConfigError: none of them could be judged.
    """
    known = [t for t in trials if t.value is not None]
    if not known:
        raise ConfigError("no candidate could be judged: every domain needs a judge to choose settings by.")
    return max(known, key=lambda t: t.value or 0.0)


def tune(
    pipe: Any,
    found: Sequence[Removal],
    images: Sequence[Request],
    judges: Mapping[str, Judge],
    *,
    model: ModelConfig | None = None,
    seed: int = 2,
) -> tuple[Trial, list[Trial]]:
    """The best of some candidates on some images, and all of them.

    Args:
        found: candidates, mild before strong.
        images: validation images: asked to show the concept, and others.
        judges: {domain: judge}, one for every domain that the images name. A judge without labels of its own chooses
            among the concepts that the images name.
        seed: of the images' noise.
    """
    model = model or ModelConfig()
    unedited = look(pipe, [], images, judges, model, seed)
    trials = [trial(r, list(judges), look(pipe, [r], images, judges, model, seed), unedited) for r in found]
    return best(trials), trials
