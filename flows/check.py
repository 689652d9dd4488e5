"""Find a user's mistakes before anything heavy is loaded."""

from saeuron import judges, models
from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.prompts import build, placeholders


def check(config: RunConfig) -> None:
    """Raise the first mistake of a configuration: model, hookpoints, judges, concepts, prompts.

    The model's weights are not read; its modules are listed from its configuration.
    """
    models.check(config.model.spec)
    for domain in config.domains.values():
        judges.check(domain.judge)
    known = [c for d in config.domains.values() for c in d.concepts]
    for concept in config.tune.concepts or ():
        if concept not in known:
            raise UnknownName("concept", concept, known, "(tune.concepts)")
    found = build(config.prompts, config.domains)
    for split in ("train", "validation", "test"):
        if not any(p.split == split for p in found):
            raise ConfigError(f"prompts: there are none of split {split!r}; add prompts.templates.{split} or files.")
    models.check_hookpoints(config.model.spec, config.hookpoints)


def check_device(device: str) -> None:
    """Raise if the device cannot be used here."""
    models.check_device(device)


def check_concepts(concepts: list[str], config: RunConfig, added: list[str]) -> None:
    """Raise unless every name is a concept of the configuration or an added one."""
    known = [c for d in config.domains.values() for c in d.concepts] + added
    for concept in concepts:
        if concept not in known:
            raise UnknownName("concept", concept, known)


def check_added(concept: ConceptConfig, config: RunConfig) -> None:
    """Raise unless the concept can join the configuration."""
    if concept.domain not in config.domains:
        raise UnknownName("domain", concept.domain, config.domains)
    if concept.name in config.domains[concept.domain].concepts:
        raise ConfigError(f"concept {concept.name!r} is part of the configuration already; nothing to add.")
    for templates in (concept.templates or config.prompts.templates).values():
        for template in templates:
            placeholders(template, config.domains)
