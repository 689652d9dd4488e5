"""Which concepts take part: those that joined a workspace, those that left, and what each one's removal goes by."""

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
    """A concept that was added, and what it was added to."""

    reference: tuple[str, ...]
    """The concepts of its domain that its removal is computed against, itself included: those of the day when it was
    added, or last refreshed."""
    known: Mapping[str, Templates | None] = Field(default_factory=dict)
    """Of those of its reference set that were described otherwise since: the templates they had then."""
    dropped: bool = False
    """Whether it was taken out since."""


class Own(Config):
    """What has become of one of the configuration's own concepts."""

    own: Literal[True]
    name: str
    domain: str
    reference: tuple[str, ...] | None = None
    """What its removal is computed against since it was refreshed; None: the concepts of the configuration."""
    known: Mapping[str, Templates | None] = Field(default_factory=dict)
    """As of an added one."""
    dropped: bool = False


class _Kept(RootModel[Own | Added]):
    """What a record of a concept holds; only the configuration's own are marked."""


@dataclass(frozen=True)
class Roster:
    """Who takes part in the runs of a workspace, beside the concepts of a configuration."""

    added: tuple[Added, ...] = ()
    """Concepts that joined, in that order, and those that have left but that a removal is still computed against."""
    dropped: frozenset[str] = frozenset()
    """Names of concepts that have left, the configuration's own among them."""
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference sets of those of the configuration's own concepts whose removal was refreshed."""
    known: Mapping[str, Mapping[str, Templates | None]] = field(default_factory=dict)
    """{concept: {one of its reference set: the templates that this one had, others than it has now}}."""

    @classmethod
    def of(cls, workspace: Workspace, config: RunConfig) -> Self:
        """Who takes part in a run of `config`."""
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
        return cls(tuple(taken), dropped, references, {c.name: c.known for c in found if c.name in theirs and c.known})

    def present(self, config: RunConfig) -> dict[str, tuple[str, ...]]:
        """The concepts that are there, by domain, added ones last."""
        return {
            domain: tuple(
                name
                for name in (*d.concepts, *(a.name for a in self.added if a.domain == domain))
                if name not in self.dropped
            )
            for domain, d in config.domains.items()
        }

    def reference(self, config: RunConfig, concept: str) -> tuple[str, ...]:
        """What the removal of a concept is computed against.

        For a concept of the configuration that is the configuration's domain, for an added one its domain as it was
        that day, and for either, once it is refreshed, the domain as it was then. So a concept that joins or leaves
        changes no removal of another.
        """
        if domain := config.domain_of(concept):
            return self.references.get(concept, config.domains[domain].concepts)
        return next((a.reference for a in self.added if a.name == concept), ())

    def as_known(self, concept: str) -> dict[str, Added]:
        """Those of a concept's reference set that its removal is computed against as they were, and not as they are."""
        now = {a.name: a for a in self.added}
        earlier = self.known.get(concept, {})
        return {c: now[c].model_copy(update={"templates": earlier[c]}) for c in earlier if c in now}


def entries(workspace: Workspace) -> dict[Path, Added | Own]:
    """The records of concepts, in the order in which they were first written. Raises RecordDamaged."""
    return {path: entry(path) for path in sorted((workspace.root / "concepts").glob("*.json"))}


def entry(path: Path) -> Added | Own:
    """One of them. Raises RecordDamaged."""
    return parsed(_Kept, path).root


def added(workspace: Workspace) -> list[Added]:
    """Concepts added to the workspace, in the order of adding; those dropped since as well."""
    return [c for c in entries(workspace).values() if isinstance(c, Added)]


def joined(workspace: Workspace, config: RunConfig) -> list[Added]:
    """The added concepts that a configuration does not hold itself, of the domains that it knows."""
    found = Roster.of(workspace, config)
    return [a for a in found.added if a.name not in found.dropped]


def add(workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    """Register a concept; adding the same one again changes nothing, and brings one that was dropped back as it was.

    With more templates than it had, it keeps its place and its reference set, and gains what they give.

    Raises:
        ConfigError: the name is taken by another concept.
    """

    def change() -> Added:
        known = {p: c for p, c in entries(workspace).items() if c.name == new.name}
        _return(workspace, known)
        for path, other in known.items():
            if not isinstance(other, Added):
                continue
            if other.domain == new.domain and other.templates == new.templates:
                return other.model_copy(update={"dropped": False})
            if not other.dropped and not _extends(new, other):
                raise ConfigError(
                    f"concept {new.name!r} was added before, with other templates; expected those and more, "
                    "or another name."
                )
            _keep_as_known(workspace, other)
            if not other.dropped:
                grown = other.model_copy(update={"templates": new.templates})
                write(workspace, path, grown)
                return grown
            return _added(path, workspace, config, new)
        return _added(_next(workspace), workspace, config, new)

    with workspace.lock(_CHANGING):
        return workspace.agreed(change)


def _keep_as_known(workspace: Workspace, changing: Added) -> None:
    """Have the removals of others, until they are refreshed, computed against a concept as it is before it changes."""
    name = changing.name
    for path, other in entries(workspace).items():
        if other.name != name and name in (other.reference or ()) and name not in other.known:
            known = {**other.known, name: changing.templates}
            write(workspace, path, other.model_copy(update={"known": known}))


def _extends(new: ConceptConfig, old: ConceptConfig) -> bool:
    """Whether nothing of a concept is lost: the same domain, its templates and perhaps more."""
    if new.domain != old.domain or new.templates is None or old.templates is None:
        return False
    return all(set(texts) <= set(new.templates.get(split, ())) for split, texts in old.templates.items())


def restore(workspace: Workspace, config: RunConfig, back: ConceptConfig) -> None:
    """Bring one of the configuration's own concepts back.

    Raises:
        ConfigError: it is described otherwise than in the configuration.
    """
    if back.templates is not None or config.domain_of(back.name) != back.domain:
        raise ConfigError(
            f"concept {back.name!r} is one of the configuration's: to bring it back, give its name, "
            f"domain: {config.domain_of(back.name)}, and no templates."
        )
    with workspace.lock(_CHANGING):
        workspace.agreed(
            lambda: _return(workspace, {p: c for p, c in entries(workspace).items() if c.name == back.name})
        )


def _return(workspace: Workspace, known: Mapping[Path, Added | Own]) -> None:
    for path, one in known.items():
        if one.dropped:
            write(workspace, path, one.model_copy(update={"dropped": False}))


def _added(path: Path, workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    names = Roster.of(workspace, config).present(config)[new.domain]
    written = Added(**new.model_dump(), reference=(*(n for n in names if n != new.name), new.name))
    write(workspace, path, written)
    return written


def drop(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Note that a concept has left; nothing of it is deleted."""
    _change(workspace, config, name, dropped=True)


def refresh(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Note that the removal of a concept is from now on computed against the concepts of its domain that are there."""
    reference = next(names for names in Roster.of(workspace, config).present(config).values() if name in names)
    _change(workspace, config, name, reference=reference, known={})


def _change(workspace: Workspace, config: RunConfig, name: str, **fields: Any) -> None:
    domain = config.domain_of(name)

    def change() -> None:
        known = entries(workspace).items()
        found = next(((p, c) for p, c in known if c.name == name and isinstance(c, Own) == bool(domain)), None)
        path, before = found or (_next(workspace), Own(own=True, name=name, domain=domain or ""))
        write(workspace, path, before.model_copy(update=fields))

    with workspace.lock(_CHANGING):
        workspace.agreed(change)


def _next(workspace: Workspace) -> Path:
    folder = workspace.root / "concepts"
    return folder / f"{max((int(p.stem) for p in folder.glob('[0-9]*.json')), default=-1) + 1:04d}.json"
