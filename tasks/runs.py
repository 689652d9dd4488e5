"""What a workspace remembers: its runs, the configuration that later commands go by, which concepts joined or left."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from saeuron.config import ConceptConfig, Config, RunConfig, Split
from saeuron.errors import ConfigError
from storage import Workspace
from storage.errors import ArtifactDamaged, StorageError
from storage.files import read_json
from storage.identity import digest
from storage.seals import read_sealed, sealed

Model = TypeVar("Model", bound=BaseModel)

STAGES = ("prompts", "capture", "sae", "score", "totals", "features", "removal", "images", "evaluation", "pictures")
"""What a run makes, in its order; other commands make artifacts of stages of their own."""
CONFIG = "run.json"
CONFIG_SEAL = "remembered.sha256"
"""In the folder of runs: the SHA-256 of run.json, which people may read and run, and so holds no seal itself."""
GATE = "gate"
"""The lock under which runs begin, artifacts are deleted and damage is set aside."""
SIGN = 60.0
"""Seconds between two signs of life of a run on an object store; see `storage.mirror.LEASE`."""
_CONCEPTS = "concepts"
"""The lock under which records of concepts are changed."""


class RecordDamaged(ArtifactDamaged):
    """A record is not as it was written, and no run makes it anew."""

    def __str__(self) -> str:
        file, expected, found = self.args
        return f"{file} is damaged: expected {expected}, found {found}; mend it with: saeuron verify --repair"


class Record(BaseModel):
    """One run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    number: int
    """Runs of a workspace are counted from 1, in the order in which they began, whatever the clock says."""
    flow: str
    state: Literal["running", "completed", "failed", "interrupted"] = "running"
    started: datetime
    finished: datetime | None = None
    made: int = 0
    cached: int = 0
    failed: int = 0
    message: str = ""
    artifacts: dict[str, bool] | None = None
    """{artifact: whether it was there before}; None in a run that has not ended, or is from before this was kept."""
    config: str | None = None
    """SHA-256 of its configuration, the file of its name in `configs`; None in a run from before this was kept."""


def record(path: Path) -> Record:
    """The record of a run. Raises ArtifactMissing or RecordDamaged."""
    return _parsed(Record, path)


def records(workspace: Workspace) -> list[Record]:
    """The records of all runs, in the order in which they began. Damaged ones are left out: see `saeuron verify`."""
    found = []
    for path in workspace.runs.glob("*.json"):
        with suppress(StorageError):
            found.append(record(path))
    return sorted(found, key=lambda r: (r.number, r.run_id))


def start(workspace: Workspace, flow: str, config: RunConfig) -> str:
    """Note that a run begins, and with what; returns its id. What killed runs left half written is removed.

    The caller holds the lock GATE, or two runs could have one number.
    """
    workspace.sweep()
    now, number = datetime.now(UTC), 1 + max((r.number for r in records(workspace)), default=0)
    run_id = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    text = _text(config)
    began = Record(run_id=run_id, number=number, flow=flow, started=now, config=digest(text))
    _write(workspace, workspace.runs / f"{run_id}.json", began)
    workspace.write(workspace.runs / "configs" / f"{run_id}.json", text)
    return run_id


def finish(
    workspace: Workspace,
    run_id: str,
    state: str,
    counts: Mapping[str, int],
    message: str = "",
    artifacts: Mapping[str, bool] | None = None,
) -> None:
    """Note how a run ended (completed, failed, interrupted) and what it used: {artifact: whether it was there}."""
    path = workspace.runs / f"{run_id}.json"
    end = {"state": state, "finished": datetime.now(UTC), "message": message}
    known = None if artifacts is None else dict(artifacts)
    _write(workspace, path, Record.model_validate({**record(path).model_dump(), **end, **counts, "artifacts": known}))


@contextmanager
def living(workspace: Workspace, flow: str, config: RunConfig) -> Iterator[str]:
    """Begin a run, and hold the lock of its id for the block: a dead process holds none."""
    with ExitStack() as held:
        with workspace.lock(GATE):
            run_id = start(workspace, flow, config)
            held.enter_context(workspace.lock(run_id))
            held.enter_context(_signs(workspace, run_id))
        try:
            yield run_id
        finally:
            # No other run has this name, so nobody can come to wait for a file that is gone.
            (workspace.locks / f"{run_id}.lock").unlink(missing_ok=True)


@contextmanager
def _signs(workspace: Workspace, run_id: str) -> Iterator[None]:
    """For the block, tell other machines now and then that the run is alive; on this one its lock says so."""
    if (remote := workspace.remote) is None:
        yield
        return
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(SIGN):
            # A store that is away for a while is the business of who needs it.
            with suppress(StorageError):
                remote.hold(run_id)

    remote.hold(run_id)
    teller = threading.Thread(target=tell, name=f"signs of {run_id}", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        with suppress(StorageError):
            remote.release(run_id)


def alive(workspace: Workspace) -> list[str]:
    """The runs that living processes are at. One that says 'running' and holds no lock was killed."""
    here = [path.stem for path in sorted(workspace.runs.glob("*.json")) if workspace.busy(path.stem)]
    if workspace.remote is None:
        return here
    # Of a run of this machine its lock knows better.
    elsewhere = (i for i in workspace.remote.alive() if not (workspace.locks / f"{i}.lock").exists())
    return sorted({*here, *elsewhere})


def remember(workspace: Workspace, config: RunConfig) -> None:
    """Keep the configuration that later commands on this workspace go by."""
    path, text = workspace.root / CONFIG, _text(config)
    seal = workspace.runs / CONFIG_SEAL

    def write() -> None:
        for file, data in ((seal, digest(text).encode()), (path, text)):
            if not file.exists() or file.read_bytes() != data:
                workspace.write(file, data)

    workspace.agreed(write)


def remembered(workspace: Workspace) -> RunConfig:
    """The configuration of the last run.

    Raises:
        ConfigError: there was none.
        RecordDamaged: it is not as it was written.
    """
    path, seal = workspace.root / CONFIG, workspace.runs / CONFIG_SEAL
    if not path.exists():
        raise ConfigError(f"nothing has been run in {workspace.address} yet; start with: saeuron run --workspace DIR")
    if seal.exists() and (sha := digest(path)) != (known := seal.read_text("utf-8", "replace")):
        raise RecordDamaged(path, f"SHA-256 {known[:12]}…", f"{sha[:12]}…")
    return _parsed(RunConfig, path, read_json)


Templates = dict[Split, tuple[str, ...]]


class Added(ConceptConfig):
    """A concept that was added, and what it was added to."""

    reference: tuple[str, ...]
    """The concepts of its domain that its removal is computed against, itself included: those of the day when it was
    added, or last refreshed."""
    known: Mapping[str, Templates | None] = Field(default_factory=dict)
    """Of those of its reference set that were described otherwise since: the templates they had then."""
    removed: bool = False
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
    removed: bool = False


class _Kept(RootModel[Own | Added]):
    """What a record of a concept holds; only the configuration's own are marked."""


@dataclass(frozen=True)
class Roster:
    """Who takes part in the runs of a workspace, beside the concepts of a configuration."""

    added: tuple[Added, ...] = ()
    """Concepts that joined, in that order, and those that have left but that a removal is still computed against."""
    removed: frozenset[str] = frozenset()
    """Names of concepts that have left, the configuration's own among them."""
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference sets of those of the configuration's own concepts whose removal was refreshed."""
    known: Mapping[str, Mapping[str, Templates | None]] = field(default_factory=dict)
    """{concept: {one of its reference set: the templates that this one had, others than it has now}}."""

    def present(self, config: RunConfig) -> dict[str, tuple[str, ...]]:
        """The concepts that are there, by domain, added ones last."""
        return {
            domain: tuple(
                name
                for name in (*d.concepts, *(a.name for a in self.added if a.domain == domain))
                if name not in self.removed
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


def concepts(workspace: Workspace) -> dict[Path, Added | Own]:
    """The records of concepts, in the order in which they were first written. Raises RecordDamaged."""
    return {path: concept(path) for path in sorted((workspace.root / "concepts").glob("*.json"))}


def concept(path: Path) -> Added | Own:
    """One of them. Raises RecordDamaged."""
    return _parsed(_Kept, path).root


def added(workspace: Workspace) -> list[Added]:
    """Concepts added to the workspace, in the order of adding; those removed since as well."""
    return [c for c in concepts(workspace).values() if isinstance(c, Added)]


def roster(workspace: Workspace, config: RunConfig) -> Roster:
    """Who takes part in a run of `config`."""
    found = list(concepts(workspace).values())
    removed = frozenset(c.name for c in found if c.removed)
    guests = [c for c in found if isinstance(c, Added) and c.domain in config.domains and not config.domain_of(c.name)]
    references = {
        c.name: c.reference
        for c in found
        if isinstance(c, Own) and c.reference is not None and config.domain_of(c.name) == c.domain
    }
    present = [c for c in guests if c.name not in removed]
    pinned = set().union(*references.values(), *(c.reference for c in present))
    taken = [c for c in guests if c in present or c.name in pinned]
    theirs = {c.name for c in taken} | references.keys()
    return Roster(tuple(taken), removed, references, {c.name: c.known for c in found if c.name in theirs and c.known})


def joined(workspace: Workspace, config: RunConfig) -> list[Added]:
    """The added concepts that a configuration does not hold itself, of the domains that it knows."""
    found = roster(workspace, config)
    return [a for a in found.added if a.name not in found.removed]


def add(workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    """Register a concept; adding the same one again changes nothing, and brings one that was removed back as it was.

    With more templates than it had, it keeps its place and its reference set, and gains what they give.

    Raises:
        ConfigError: the name is taken by another concept.
    """

    def change() -> Added:
        known = {p: c for p, c in concepts(workspace).items() if c.name == new.name}
        _return(workspace, known)
        for path, other in known.items():
            if not isinstance(other, Added):
                continue
            if other.domain == new.domain and other.templates == new.templates:
                return other.model_copy(update={"removed": False})
            if not other.removed and not _extends(new, other):
                raise ConfigError(
                    f"concept {new.name!r} was added before, with other templates; expected those and more, "
                    "or another name."
                )
            _keep_as_known(workspace, other)
            if not other.removed:
                grown = other.model_copy(update={"templates": new.templates})
                _write(workspace, path, grown)
                return grown
            return _added(path, workspace, config, new)
        return _added(_next(workspace), workspace, config, new)

    with workspace.lock(_CONCEPTS):
        return workspace.agreed(change)


def _keep_as_known(workspace: Workspace, changing: Added) -> None:
    """Have the removals of others, until they are refreshed, computed against a concept as it is before it changes."""
    name = changing.name
    for path, other in concepts(workspace).items():
        if other.name != name and name in (other.reference or ()) and name not in other.known:
            known = {**other.known, name: changing.templates}
            _write(workspace, path, other.model_copy(update={"known": known}))


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
    with workspace.lock(_CONCEPTS):
        workspace.agreed(
            lambda: _return(workspace, {p: c for p, c in concepts(workspace).items() if c.name == back.name})
        )


def _return(workspace: Workspace, records: Mapping[Path, Added | Own]) -> None:
    for path, known in records.items():
        if known.removed:
            _write(workspace, path, known.model_copy(update={"removed": False}))


def _added(path: Path, workspace: Workspace, config: RunConfig, new: ConceptConfig) -> Added:
    names = roster(workspace, config).present(config)[new.domain]
    written = Added(**new.model_dump(), reference=(*(n for n in names if n != new.name), new.name))
    _write(workspace, path, written)
    return written


def remove(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Note that a concept has left; nothing of it is deleted."""
    _change(workspace, config, name, removed=True)


def refresh(workspace: Workspace, config: RunConfig, name: str) -> None:
    """Note that the removal of a concept is from now on computed against the concepts of its domain that are there."""
    reference = next(names for names in roster(workspace, config).present(config).values() if name in names)
    _change(workspace, config, name, reference=reference, known={})


def _change(workspace: Workspace, config: RunConfig, name: str, **fields: Any) -> None:
    domain = config.domain_of(name)

    def change() -> None:
        known = concepts(workspace).items()
        found = next(((p, c) for p, c in known if c.name == name and isinstance(c, Own) == bool(domain)), None)
        path, before = found or (_next(workspace), Own(own=True, name=name, domain=domain or ""))
        _write(workspace, path, before.model_copy(update=fields))

    with workspace.lock(_CONCEPTS):
        workspace.agreed(change)


def _next(workspace: Workspace) -> Path:
    folder = workspace.root / "concepts"
    return folder / f"{max((int(p.stem) for p in folder.glob('[0-9]*.json')), default=-1) + 1:04d}.json"


def _text(config: RunConfig) -> bytes:
    # The order of domains and hookpoints is part of a configuration, so keys are not sorted.
    return (config.model_dump_json(indent=2) + "\n").encode()


def _write(workspace: Workspace, path: Path, model: BaseModel) -> None:
    workspace.write(path, sealed(model.model_dump(mode="json")))


def _parsed(model: type[Model], path: Path, read: Callable[[Path], Any] = read_sealed) -> Model:
    try:
        return model.model_validate(read(path))
    except ValidationError as error:
        found = f"{error.error_count()} fields that do not fit"
        raise RecordDamaged(path, f"the fields of a {model.__name__.strip('_').lower()}", found) from None
    except ArtifactDamaged as error:
        raise RecordDamaged(*error.args) from None
