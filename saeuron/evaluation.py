"""The test prompts and images on which a removal is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeuron.config import EvaluateConfig, ModelConfig
from saeuron.errors import BadPrompts
from saeuron.figures.metrics import Judged
from saeuron.generation import Request, generate, requests
from saeuron.judges import Judge, choices
from saeuron.methods.removal import Removal, removed
from saeuron.prompts import Prompt, cells, choose


def images(
    prompts: Sequence[Prompt],
    config: EvaluateConfig,
    sampled_for: tuple[str, str] | None = None,
    among: Mapping[str, str] | None = None,
    own_cells: int | None = None,
) -> list[Request]:
    """One test prompt of every combination of concepts, `config.seeds` images of each, and all prompts of benchmarks.

    A benchmark's prompt that brings a seed has one image, the one that the benchmark means.

    Args:
        prompts: a prompt set; only its test prompts are used.
        config: the number of images, and the seed of the choice.
        sampled_for: (domain, concept) that was removed. With `config.retained_cells`, all cells of the concept are
            kept, and that many of the others, dealt in turn over the concepts of the domain. None: all are kept.
        among: {concept: domain} of several concepts that are removed one after another, in place of `sampled_for`: at
            most `own_cells` cells of each are kept, and `config.retained_cells` of those that ask for none of them.
        own_cells: None: all.

    Raises:
        BadPrompts: the prompt set has no test prompts.
    """
    found = [p for p in prompts if p.split == "test"]
    if not found:
        raise BadPrompts("the prompt set has no test prompts; add templates or files with split 'test'.")
    # A run is drawn faster if prompts of one guidance are neighbours.
    listed = sorted((p for p in found if p.source), key=lambda p: (p.guidance or 0.0, p.source, p.id))
    templates = (p for p in found if not p.source)
    chosen = [choose(members, 1, config.seed)[0] for members in cells(templates).values()]
    if among:
        chosen = _several(chosen, among, own_cells, config)
    elif config.retained_cells is not None and sampled_for is not None:
        domain, concept = sampled_for
        own = [p for p in chosen if p.concepts.get(domain) == concept]
        others = [p for p in chosen if p.concepts.get(domain) != concept]
        chosen = own + _stratified(others, domain, config.retained_cells, config.seed)
    return requests(chosen, config.seeds) + [
        request for p in listed for request in requests([p], 1 if p.seed is not None else config.seeds)
    ]


def _several(
    prompts: Sequence[Prompt], among: Mapping[str, str], own_cells: int | None, config: EvaluateConfig
) -> list[Prompt]:
    """Some prompts of each of several concepts, and some of none of them; a prompt of two counts for the first."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        asked = [c for c, domain in sorted(among.items()) if prompt.concepts.get(domain) == c]
        groups.setdefault(asked[0] if asked else "", []).append(prompt)
    rest, found = groups.pop("", []), list[Prompt]()
    for concept in sorted(groups):
        found += choose(groups[concept], len(prompts) if own_cells is None else own_cells, config.seed)
    limit = len(rest) if config.retained_cells is None else config.retained_cells
    return found + _stratified(rest, min(among.values()), limit, config.seed)


def _stratified(prompts: Sequence[Prompt], domain: str, limit: int, seed: int) -> list[Prompt]:
    """At most `limit` prompts, dealt in turn over the concepts of `domain`."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in choose(prompts, len(prompts), seed):
        groups.setdefault(prompt.concepts.get(domain, ""), []).append(prompt)
    rounds = max(map(len, groups.values()), default=0)
    dealt = [members[i] for i in range(rounds) for _, members in sorted(groups.items()) if i < len(members)]
    return dealt[:limit]


def look(
    pipe: Any,
    removals: Sequence[Removal],
    images: Sequence[Request],
    judges: Mapping[str, Judge],
    model: ModelConfig,
    seed: int,
) -> list[Judged]:
    """What judges see on images that are generated with some removals, or with none; one entry per image, in order.

    Args:
        judges: {domain: judge}. A judge without labels of its own chooses among the concepts that the images name.
        seed: of the images' noise.
    """
    with removed(pipe, removals) as attached:
        return look_at(pipe, images, judges, model, seed, attached.call)


def look_at(
    pipe: Any,
    images: Sequence[Request],
    judges: Mapping[str, Judge],
    model: ModelConfig,
    seed: int,
    call: Mapping[str, Any] | None = None,
) -> list[Judged]:
    """What judges see on images of a pipeline as it is; arguments and result as those of `look`.

    Args:
        call: more arguments of the pipeline's call.
    """
    labels, seen = labels_of(images, judges), list[Judged]()
    for batch, pictures in generate(pipe, images, model, seed, extra=call):
        seen += judged(batch, pictures, judges, labels)
    return seen


def labels_of(images: Sequence[Request], judges: Mapping[str, Judge]) -> dict[str, tuple[str, ...]]:
    """{domain: what its judge chooses among, for these images}."""
    asked = {domain: [r.prompt.concepts[domain] for r in images if domain in r.prompt.concepts] for domain in judges}
    return {domain: choices(judge, asked[domain]) for domain, judge in judges.items()}


def judged(
    images: Sequence[Request],
    pictures: NDArray[np.uint8],
    judges: Mapping[str, Judge],
    labels: Mapping[str, Sequence[str]],
) -> list[Judged]:
    """What judges see on pictures, uint8 [n, H, W, 3]; one entry per image, in order.

    Args:
        labels: see `labels_of`; of all images of which these are a part.
    """
    found = {domain: judge(pictures, labels[domain]) for domain, judge in judges.items()}
    return [
        Judged(r.prompt.id, r.index, r.prompt.concepts, {domain: said[i].label for domain, said in found.items()})
        for i, r in enumerate(images)
    ]
