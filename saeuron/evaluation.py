"""The test prompts and images on which a removal is measured."""

from collections.abc import Sequence

from saeuron.config import EvaluateConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request, requests
from saeuron.prompts import Prompt, cells, choose


def images(
    prompts: Sequence[Prompt], config: EvaluateConfig, sampled_for: tuple[str, str] | None = None
) -> list[Request]:
    """One test prompt of every combination of concepts, `config.seeds` images of each.

    Args:
        prompts: a prompt set; only its test prompts are used.
        config: the number of images, and the seed of the choice.
        sampled_for: (domain, concept) that was removed. With `config.retained_cells`, all cells of the concept are
            kept, and that many of the others, dealt in turn over the concepts of the domain. None: all are kept.

    Raises:
        BadPrompts: the prompt set has no test prompts.
    """
    found = [p for p in prompts if p.split == "test"]
    if not found:
        raise BadPrompts("the prompt set has no test prompts; add templates or files with split 'test'.")
    chosen = [choose(members, 1, config.seed)[0] for members in cells(found).values()]
    if config.retained_cells is not None and sampled_for is not None:
        domain, concept = sampled_for
        own = [p for p in chosen if p.concepts.get(domain) == concept]
        others = [p for p in chosen if p.concepts.get(domain) != concept]
        chosen = own + _stratified(others, domain, config.retained_cells, config.seed)
    return requests(chosen, config.seeds)


def _stratified(prompts: Sequence[Prompt], domain: str, limit: int, seed: int) -> list[Prompt]:
    """At most `limit` prompts, dealt in turn over the concepts of `domain`."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in choose(prompts, len(prompts), seed):
        groups.setdefault(prompt.concepts.get(domain, ""), []).append(prompt)
    rounds = max(map(len, groups.values()), default=0)
    dealt = [members[i] for i in range(rounds) for _, members in sorted(groups.items()) if i < len(members)]
    return dealt[:limit]
