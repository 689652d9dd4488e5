"""The prompt set of a run."""

from collections.abc import Mapping, Sequence

from saeuron.config import DomainConfig, PromptsConfig, Split
from saeuron.errors import BadPrompts
from saeuron.prompts.files import from_file
from saeuron.prompts.prompt import SPLITS, Prompt
from saeuron.prompts.templates import from_templates
from saeuron.prompts.unlearncanvas import from_unlearncanvas


def build(config: PromptsConfig, domains: Mapping[str, DomainConfig]) -> list[Prompt]:
    """The prompt set of a run, sorted by (split, text).

    Raises:
        BadPrompts: the set is empty, or a sentence occurs twice with different splits or concepts.
    """
    names = {domain: d.concepts for domain, d in domains.items()}
    prompts = from_templates(config, names)
    for file in config.files:
        prompts += from_file(file, names)
    if config.unlearncanvas:
        prompts += from_unlearncanvas(config.unlearncanvas, names)
    if not prompts:
        raise BadPrompts("the prompt set is empty; give prompts.templates or prompts.files.")
    by_id: dict[str, Prompt] = {}
    for prompt in prompts:
        other = by_id.setdefault(prompt.id, prompt)
        if other != prompt:
            raise BadPrompts(
                f"the prompt {prompt.text!r} occurs twice, as {other.split} {dict(other.concepts)} and as "
                f"{prompt.split} {dict(prompt.concepts)}; the splits must not share sentences: change one of them."
            )
    return sorted(by_id.values(), key=lambda p: (SPLITS.index(p.split), p.text, p.id))


def prompt_set(
    domains: Mapping[str, Sequence[str]],
    *,
    train: Sequence[str],
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> list[Prompt]:
    """The prompts of some templates, each filled with every combination of the concepts that it names.

    Args:
        domains: {domain: concepts}, such as {"style": ["neon", "dots"], "object": ["cat", "moon"]}.
        train: templates such as "An image of {object} in {style} style.", for SAEs and scores.
        validation: templates that settings are chosen on.
        test: templates that figures are measured on. The splits must not share sentences.

    Raises:
        BadPrompts: a template is malformed, or a sentence is in two splits.
        UnknownName: a template names a domain that is not there.
    """
    templates: dict[Split, tuple[str, ...]] = {
        "train": tuple(train),
        "validation": tuple(validation),
        "test": tuple(test),
    }
    hooked = {name: DomainConfig(concepts=tuple(c), hookpoints=("-",)) for name, c in domains.items()}
    return build(PromptsConfig(templates=templates), hooked)
