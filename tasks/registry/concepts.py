"""Concepts that were added to a workspace or dropped from it, and the reference set of each one's removal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, RootModel

from saeuron.config import ConceptConfig, RunConfig, Split
from saeuron.errors import ConfigError
from saeuron.sae.config import Config
from storage import Workspace
from tasks.registry.records import parsed, write

_CHANGING = "concepts"
"""The lock under which records of concepts are changed."""

Templates = dict[Split, tuple[str, ...]]


class Added(ConceptConfig):
    """A concept added to the workspace."""

    reference: tuple[str, ...]
    """The concepts that its removal is computed against, itself included: those of its domain when it was added or last
    refreshed."""
    reference_templates: Mapping[str, Templates | None] = Field(default_factory=dict)
    """The old templates of reference concepts that changed since."""
    dropped: bool = False
    """Whether it was dropped."""


class Own(Config):
    """Changes to one of the configuration's own concepts."""

    own: Literal[True]
    name: str
    domain: str
    reference: tuple[str, ...] | None = None
    """The reference set of its removal, if it was refreshed; None: the concepts of the configuration."""
    reference_templates: Mapping[str, Templates | None] = Field(default_factory=dict)
    """See `Added.reference_templates`."""
    dropped: bool = False


class _Kept(RootModel[Own | Added]):
    """A record of a concept; `own` marks the configuration's own concepts."""


@dataclass(frozen=True)
class Roster:
    """Changes to a configuration's concepts: those that were added, dropped or refreshed in the workspace."""

    added: tuple[Added, ...] = ()
    """Added concepts, in the order of adding; dropped ones too, as long as a reference set holds them."""
    dropped: frozenset[str] = frozenset()
    """Names of dropped concepts, the configuration's own included."""
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """{concept of the configuration whose removal was refreshed: its reference set}."""
    reference_templates: Mapping[str, Mapping[str, Templates | None]] = field(default_factory=dict)
    """{concept: {reference concept that changed since: its old templates}}."""

    @classmethod
    def of(cls, workspace: Workspace, config: RunConfig) -> Self:
        """The concepts in a run of `config`."""
        found = list(entries(workspace).values())
        dropped = frozenset(c.name for c in found if c.dropped)
        guests = [
            c for c in found if isinstance(c, Added) and c.domain in config.domains and not config.domain_of(c.name)
        ]
        references = {
            c.name: c.reference
            for c in found
            if isinstance(c, Own) and c.reference is not None and config.domain_of(c.name) == c.domain
        }
        present = [c for c in guests if c.name not in dropped]
        pinned = set().union(*references.values(), *(c.reference for c in present))
        taken = [c for c in guests if c in present or c.name in pinned]
        theirs = {c.name for c in taken} | references.keys()
        return cls(
            tuple(taken),
            dropped,
            references,
            {c.name: c.reference_templates for c in found if c.name in theirs and c.reference_templates},
        )

    def present(self, config: RunConfig) -> dict[str, tuple[str, ...]]:
        """{domain: concepts that were not dropped}, added ones last."""
        return {
            domain: tuple(
                name
                for name in (*d.concepts, *(a.name for a in self.added if a.domain == domain))
                if name not in self.dropped
            )
            for domain, d in config.domains.items()
        }

    def reference(self, config: RunConfig, concept: str) -> tuple[str, ...]:
        """The reference set of a concept's removal.

        For a concept of the configuration: the configuration's domain. For an added one: its domain when it was added.
        Refreshing sets it to the domain at that time. So adding or dropping a concept changes no other removal.
        """
        if domain := config.domain_of(concept):
            return self.references.get(concept, config.domains[domain].concepts)
        return next((a.reference for a in self.added if a.name == concept), ())

    def as_pinned(self, concept: str) -> dict[str, Added]:
        """{reference concept that changed since: the concept with its old templates}, for one concept's removal."""
        now = {a.name: a for a in self.added}
        earlier = self.reference_templates.get(concept, {})
        return {c: now[c].model_copy(update={"templates": earlier[c]}) for c in earlier if c in now}


def entries(workspace: Workspace) -> dict[Path, Added | Own]:
    """The records of concepts, in the order in which they were first written. Raises RecordDamaged."""
    return {path: entry(path) for path in sorted((workspace.root / "concepts").glob("*.json"))}


def entry(path: Path) -> Added | Own:
    """The record of a concept. Raises RecordDamaged."""
    return parsed(_Kept, path).root


def added(workspace: Workspace) -> list[Added]:
    """Concepts added to the workspace, in the order of adding, dropped ones included."""
    return [c for c in entries(workspace).values() if isinstance(c, Added)]


def joined(workspace: Workspace, config: RunConfig) -> list[Added]:
    """Added concepts that are in one of the configuration's domains, were not dropped, and are not its own."""
    found = Roster.of(workspace, config)
    return [a for a in found.added if a.name not in found.dropped]


def add(workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    """Register a concept. Adding the same one again changes nothing; a dropped one is restored as it was.

    With more templates than before, the concept keeps its place and its reference set.

    Raises:
        ConfigError: the name is taken by another concept.
    """

    def change() -> Added:
        known = {p: c for p, c in entries(workspace).items() if c.name == new.name}
        _undrop(workspace, known)
        for path, other in known.items():
            if not isinstance(other, Added):
                continue
            judged = {"judge": new.judge, "judge_templates": new.judge_templates}
            if other.also != new.also and not other.dropped:
                raise ConfigError(
                    f"concept {new.name!r} was added before, with also: {list(other.also)}; expected the same words, "
                    "or another name."
                )
            if (other.domain, other.templates, other.also) == (new.domain, new.templates, new.also):
                same = other.model_copy(update={"dropped": False, **judged})
                if same != other.model_copy(update={"dropped": False}):
                    write(workspace, path, same)
                return same
            if not other.dropped and not _extends(new, other):
                raise ConfigError(
                    f"concept {new.name!r} was added before, with other templates; expected those and more, "
                    "or another name."
                )
            _keep_templates(workspace, other)
            if not other.dropped:
                grown = other.model_copy(update={"templates": new.templates, **judged})
                write(workspace, path, grown)
                return grown
            return _write_added(path, workspace, config, new)
        return _write_added(_next_path(workspace), workspace, config, new)

    with workspace.lock(_CHANGING):
        return workspace.agreed(change)


def _keep_templates(workspace: Workspace, changing: Added) -> None:
    """Record a concept's old templates before they change: removals of others use them until they are refreshed."""
    name = changing.name
    for path, other in entries(workspace).items():
        if other.name != name and name in (other.reference or ()) and name not in other.reference_templates:
            kept = {**other.reference_templates, name: changing.templates}
            write(workspace, path, other.model_copy(update={"reference_templates": kept}))


def _extends(new: ConceptConfig, old: ConceptConfig) -> bool:
    """Whether `new` has the domain and all templates of `old`."""
    if new.domain != old.domain or new.templates is None or old.templates is None:
        return False
    return all(set(texts) <= set(new.templates.get(split, ())) for split, texts in old.templates.items())


def restore(workspace: Workspace, config: RunConfig, back: ConceptConfig) -> None:
    """Restore a dropped concept of the configuration.

    Raises:
        ConfigError: its domain or templates differ from the configuration's.
    """
    if back.templates is not None or config.domain_of(back.name) != back.domain:
        raise ConfigError(
            f"concept {back.name!r} is one of the configuration's: to bring it back, give its name, "
            f"domain: {config.domain_of(back.name)}, and no templates."
        )
    with workspace.lock(_CHANGING):
        workspace.agreed(
            lambda: _undrop(workspace, {p: c for p, c in entries(workspace).items() if c.name == back.name})
        )


def _undrop(workspace: Workspace, known: Mapping[Path, Added | Own]) -> None:
    """Put dropped concepts back on the list, of {record's path: record}."""
    for path, one in known.items():
        if one.dropped:
            write(workspace, path, one.model_copy(update={"dropped": False}))


def _write_added(path: Path, workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    """Write the record of an added concept; its reference set is the present domain and itself."""
    names = Roster.of(workspace, config).present(config)[new.domain]
    written = Added(**new.model_dump(), reference=(*(n for n in names if n != new.name), new.name))
    write(workspace, path, written)
    return written


def drop(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Drop a concept from the list; its files stay."""
    _update(workspace, config, name, dropped=True)


def refresh(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Set the reference set of a concept's removal to the concepts that its domain has now."""
    reference = next(names for names in Roster.of(workspace, config).present(config).values() if name in names)
    _update(workspace, config, name, reference=reference, reference_templates={})


def _update(workspace: Workspace, config: RunConfig, name: str, **fields: Any) -> None:
    """Change fields of a concept's record; a concept of the configuration gets one if it has none."""
    domain = config.domain_of(name)

    def change() -> None:
        known = entries(workspace).items()
        found = next(((p, c) for p, c in known if c.name == name and isinstance(c, Own) == bool(domain)), None)
        path, before = found or (_next_path(workspace), Own(own=True, name=name, domain=domain or ""))
        write(workspace, path, before.model_copy(update=fields))

    with workspace.lock(_CHANGING):
        workspace.agreed(change)


def _next_path(workspace: Workspace) -> Path:
    """The path of a new record: numbered in the order of adding."""
    folder = workspace.root / "concepts"
    return folder / f"{max((int(p.stem) for p in folder.glob('[0-9]*.json')), default=-1) + 1:04d}.json"
