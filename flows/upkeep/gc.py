"""Find what nothing refers to, and delete it.

These are referred to:
- what a run would find: the walk of `flows.plan` over the remembered configuration and the added concepts, for every
  kind of device that made anything here; the same for runs that are at work;
- what a published removal was made of, its pictures and its newest figures;
- what was imported;
- the inputs of all these, and what other commands made of them.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.hints import command
from flows.pipeline import stages, wanted
from flows.plan import Plan
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import SaeuronError
from storage import Workspace
from storage.backend import size
from storage.files import read_json
from storage.identity import split_id
from storage.manifests import Manifest, same
from storage.published import header, published, published_name
from storage.verify import copies, ids_in
from tasks.registry import runs, saes
from tasks.registry.concepts import Roster
from tasks.stages import every as known_stages

YOUNG = 86_400.0
"""Seconds during which a folder without a manifest may still be in the making."""


@dataclass(frozen=True)
class Garbage:
    """One thing that nothing refers to."""

    kind: str
    """The stage of an artifact; or copy, record, lock, damaged, objects."""
    label: str
    path: Path
    bytes: int
    artifact: str = ""
    left: str = ""
    """Why it is not deleted; empty if it is deleted."""


def survey(workspace: Workspace) -> list[Garbage]:
    """Find everything that could be deleted, and what has to stay for now. Nothing is changed.

    Raises:
        ConfigError: nothing was run here.
        SaeuronError: something is damaged, so what is referred to cannot be known.
    """
    config = runs.remembered(workspace)
    manifests = {m.id: m for m in workspace.artifacts()}
    kept = _referred(workspace, config, manifests)
    concepts = {m.id: m.summary.get("concept", "") for m in manifests.values() if m.stage == "removal"}
    found = [_artifact(workspace, i, manifests.get(i), concepts) for i in workspace.folders() if i not in kept]
    dropped = Roster.of(workspace, config).dropped
    public = {path: m.summary.get("concept", "") for m in manifests.values() for path in copies(workspace, m)}
    for path, about in published(workspace).items():
        pictures = (f"{published_name(about.concept, about.method)}_{kind}.png" for kind in ("sheet", "scores"))
        public |= dict.fromkeys((path, *(workspace.pictures / name for name in pictures)), about.concept)
    found += [_thing("copy", public[p], p) for p in sorted(public) if public[p] in dropped and p.exists()]
    locks = sorted(workspace.locks.glob("*T*-*.lock"))
    found += [_thing("lock", "of a dead run", path) for path in locks if not workspace.busy(path.stem)]
    found += _unfinished(workspace)
    aside = {workspace.damaged / stamp: count for stamp, count in workspace.backend.aside().items()}
    aside |= {path: size(path) for path in (workspace.root / "artifacts").rglob(".*.damaged")}
    found += [Garbage("damaged", "set aside", path, aside[path]) for path in sorted(aside)]
    return found


def collect(workspace: Workspace) -> list[Garbage]:
    """Delete what `survey` finds, and what killed processes left half written; returns it, with what was left.

    No run begins meanwhile on this machine, and each artifact is deleted under its lock. Killed at any point, what is
    there is whole, and the next collection finishes.
    """
    with workspace.lock(runs.GATE):
        workspace.backend.refresh()
        known = workspace.backend.leases()
        done = [_delete(workspace, each, known) for each in survey(workspace)]
        workspace.sweep()
    return done


def _delete(workspace: Workspace, each: Garbage, known: Set[str]) -> Garbage:
    """Delete it, unless a run has begun on another machine since the survey: nobody asked what that one refers to."""
    if each.left:
        return each
    if workspace.backend.leases() - known:
        return replace(each, left="a run has begun on another machine")
    if each.artifact:
        with workspace.claim(each.artifact) as free:
            if not free:
                return replace(each, left="a process is at work on it")
            workspace.delete(each.artifact)
    else:
        workspace.unlink(each.path)
    return each


def _referred(workspace: Workspace, config: RunConfig, manifests: dict[str, Manifest]) -> set[str]:
    if damaged := workspace.problems():
        raise SaeuronError(
            f"damaged: {counted(len(damaged), 'artifact')}; before anything is deleted: saeuron verify --repair"
        )
    roster = Roster.of(workspace, config)
    if torn := [p for p in sorted(workspace.removals.glob("*.safetensors")) if header(p) is None]:
        raise SaeuronError(f"{torn[0]} is damaged; before anything is deleted: saeuron verify --repair")
    public = {p: about for p, about in published(workspace).items() if about.concept not in roster.dropped}
    todo = _shown(workspace, manifests.values(), roster.dropped)
    for path in public:
        todo |= ids_in(header(path))
    at_work = [RunConfig.model_validate(read_json(workspace.runs / "configs" / f"{i}.json")) for i in workspace.alive()]
    for each in (config, *at_work):
        todo |= {*saes.given(workspace, each.saes).values()}
    for kind in sorted({"cpu", *(str(m.config["device"]) for m in manifests.values() if "device" in m.config)}):
        todo |= _walked(Plan.of(workspace, config, kind), [*dict.fromkeys(about.concept for about in public.values())])
        for other in at_work:
            todo |= _walked(Plan.of(workspace, other, kind), [c for d in other.domains.values() for c in d.concepts])
    # No command makes imported artifacts again.
    kept = _inputs(todo | {m.id for m in manifests.values() if m.summary.get("source")}, manifests)
    # A run's walk names what it needs of its own stages. Artifacts of other stages, and of those that are not installed
    # here, stay as long as their inputs.
    walked = {name for name, stage in known_stages().items() if stage.in_run}
    others = [m for m in manifests.values() if m.stage not in walked]
    # Until no more is found: an artifact may seem older than its inputs, if the clock was set back.
    while more := [m for m in others if m.id not in kept and ids_in(m.inputs) <= kept]:
        kept |= _inputs({m.id for m in more}, manifests)
    return kept


def _inputs(ids: Set[str], manifests: dict[str, Manifest]) -> set[str]:
    """These artifacts and all their direct and indirect inputs."""
    todo, found = set(ids), set()
    while todo:
        each = todo.pop()
        found.add(each)
        if each in manifests:
            todo |= ids_in([manifests[each].config, manifests[each].inputs]) - found
    return found


def _shown(workspace: Workspace, manifests: Collection[Manifest], dropped: Set[str]) -> set[str]:
    """Artifacts shown to people: those of pictures in pictures/, and the newest evaluation of each removal in use."""
    there = sorted((m for m in manifests if m.summary.get("concept") not in dropped), key=lambda m: m.created)
    # Of two with the same bytes the newer one counts.
    copied = {path: m.id for m in there for path, file in copies(workspace, m).items() if same(path, file)}
    newest = {m.config["removal_id"]: m.id for m in there if m.stage == "evaluation"}
    shown = set(copied.values())
    return shown | {evaluation for removal, evaluation in newest.items() if removal in shown}


def _walked(plan: Plan, more: Iterable[str]) -> set[str]:
    """The artifacts of a run that removes the concepts of its configuration and those in `more`."""
    there = [c for names in plan.domain_concepts.values() for c in names]
    stages(plan, list(dict.fromkeys([*wanted(plan), *(c for c in more if c in there)])))
    if plan.failures:
        what, why = plan.failures[0]
        raise SaeuronError(f"cannot tell what a run refers to ({what}: {why}); nothing was deleted")
    return set(plan.planned)


def _artifact(workspace: Workspace, artifact_id: str, manifest: Manifest | None, concepts: dict[str, str]) -> Garbage:
    folder = workspace.folder(artifact_id)
    files = [p for p in folder.rglob("*") if p.is_file()]
    # On an object store the folder may hold only some of the files.
    count = max(size(folder), sum(file.bytes for file in manifest.files) if manifest else 0)
    left = ""
    if workspace.busy(artifact_id):
        left = "a process is at work on it"
    elif files and not workspace.manifest_path(artifact_id).exists() and not workspace.half_deleted(artifact_id):
        age = time.time() - max(p.stat().st_mtime for p in files)
        left = "half made, less than a day ago" if age < YOUNG else ""
    return Garbage(split_id(artifact_id)[0], _label(manifest, concepts), folder, count, artifact_id, left)


def _unfinished(workspace: Workspace) -> Iterator[Garbage]:
    """Objects of an object store that no manifest lists."""
    for each in workspace.backend.unfinished():
        young = (datetime.now(UTC) - each.modified).total_seconds() < YOUNG
        left = "no manifest lists it, and it is less than a day old" if young else ""
        yield Garbage("objects", "of no artifact", workspace.root / each.key, each.bytes, left=left)


def _label(manifest: Manifest | None, concepts: dict[str, str]) -> str:
    if manifest is None:
        return "half made"
    if manifest.stage == "images":
        return " + ".join(concepts.get(i, i) for i in manifest.inputs.get("removals", ())) or "unedited"
    about: dict[str, Any] = manifest.summary
    return str(about.get("concept") or about.get("hookpoint") or about.get("domain") or "")


def _thing(kind: str, label: str, path: Path) -> Garbage:
    return Garbage(kind, label, path, size(path))


def page(workspace: Workspace, found: list[Garbage], dry: bool) -> str:
    """The deleted and the remaining garbage, as text."""
    gone, left = [g for g in found if not g.left], [g for g in found if g.left]
    rows = [
        {"what": g.kind, "of": g.label, "MB": f"{g.bytes / 1e6:.2f}".rjust(7), "path": _place(workspace, g)}
        for g in gone
    ]
    lines = [text_table(["what", "of", "MB", "path"], rows, wrapped=["of"]), ""] if rows else []
    total = sum(g.bytes for g in gone) / 1e6
    lines.append(f"{len(gone)} {'would be' if dry else 'were'} deleted, {total:.2f} MB")
    lines += [f"left: {_place(workspace, g)}: {g.left}" for g in left]
    if dry and gone:
        lines.append(f"next: {command('gc', workspace=workspace)}")
    return "\n".join(lines)


def _place(workspace: Workspace, each: Garbage) -> str:
    return each.artifact or str(each.path.relative_to(workspace.root))
