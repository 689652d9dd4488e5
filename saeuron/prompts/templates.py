"""Prompts from templates: sentences with the names of domains in braces."""

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence

from saeuron.config import PromptsConfig
from saeuron.errors import BadPrompts, UnknownName
from saeuron.figures.words import a
from saeuron.prompts.prompt import Prompt

ARTICLE = "a"
"""`{domain:a}` in a template: the concept with its article."""


def fill(template: str, concepts: Mapping[str, str]) -> str:
    """Fill a template with concepts and capitalise the first letter. Names of domains and concepts are plain text.

    `{object:a}` is the concept with its article: `a zebra`, `an owl`.
    """
    text = ""
    for before, name, spec, _ in string.Formatter().parse(template):
        text += before
        if name is not None:
            text += a(concepts[name]) if spec == ARTICLE else concepts[name]
    return text[:1].upper() + text[1:]


def placeholders(template: str, domains: Iterable[str]) -> tuple[str, ...]:
    """The domains that a template names. Raises BadPrompts or UnknownName for a malformed or unknown placeholder."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template)]
    except ValueError as error:
        raise BadPrompts(f"the template {template!r} is malformed ({error}); write braces in pairs.") from None
    known = list(domains)
    for name, spec, conversion in parts:
        if name is not None and name not in known:
            raise UnknownName("placeholder", name, known, f"It is used in the template {template!r}.")
        if (spec or ARTICLE) != ARTICLE or conversion:
            raise BadPrompts(
                f"the template {template!r} formats {{{name}}}; write the name alone between the braces, or "
                f"{{{name}:a}} for the name with its article."
            )
    return tuple(dict.fromkeys(name for name, _, _ in parts if name is not None))


def from_templates(config: PromptsConfig, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Every template filled with every combination of concepts of the domains it names, and with other words for them.

    A prompt asks for the concept, whichever word it uses.
    """
    prompts = []
    for split, templates in config.templates.items():
        for template in templates:
            names = placeholders(template, domains)
            for combination in itertools.product(*(domains[name] for name in names)):
                concepts = dict(zip(names, combination, strict=True))
                for words in itertools.product(*((c, *config.also.get(c, ())) for c in combination)):
                    text = fill(template, dict(zip(names, words, strict=True)))
                    prompts.append(Prompt(text, split, concepts))
    return prompts
