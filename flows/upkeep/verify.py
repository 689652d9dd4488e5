"""Find what is damaged in a workspace, set it aside, and name the commands that make it again."""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from flows.hints import at, command
from flows.summary import text_table
from saeuron.errors import ConfigError, SaeuronError
from storage import Workspace
from storage.errors import ArtifactDamaged, NotAWorkspace, StorageError
from storage.files import read_json
from storage.identity import digest, is_id, split_id
from storage.layout import LINK, MANIFEST, MARK
from storage.manifests import Manifest, ManifestFile, same
from storage.published import header
from storage.seals import check_page
from storage.verify import copies, damage, forget, ids_in, strays
from storage.workspace import FORMAT
from tasks.registry import concepts, runs

PLACES = {
    *(MARK, LINK, runs.CONFIG, "concepts", "artifacts", "runs"),
    *("pictures", "removals", "reports", "locks", "damaged"),
}
"""Names at the top of a workspace. Hidden files are ignored."""
HEADER = 1 << 20
"""Bytes of a removal's file that are searched for the artifact it is a copy of."""
REWRITE, ASIDE, OTHERS = "--repair rewrites it", "--repair moves it away", "what made it makes it"
RUN = "saeuron run"
UPLOAD, AGAIN = "--repair uploads it", "fetched again when it is read"
"""Repairs of a damaged object with a whole copy in this machine's cache, and of a damaged file in that cache."""


@dataclass(frozen=True)
class Damage:
    """One damaged, missing or unknown file."""

    kind: str
    """missing, size, bytes, unreadable; or copy, unknown, cache."""
    path: Path
    expected: str
    found: str
    todo: str
    """The command that makes it again, or what --repair does."""
    artifact: str = ""
    """The artifact that it belongs to; it is set aside as a whole."""
    source: Path | bytes | None = None
    """File or bytes from which --repair rewrites it."""
    beside: tuple[Path, ...] = ()
    """Files that are useless without it."""


def find(workspace: Workspace, deep: bool = False) -> list[Damage]:
    """Everything that is damaged; with `deep` every byte of every artifact is read."""
    makes = _Makes(workspace)
    found = [*_config(workspace), *_concepts(workspace), *_runs(workspace)]
    whole: list[Manifest] = []
    # Runs use committed artifacts only: if one has no manifest now, its manifest was lost.
    used = {i for record in runs.records(workspace) for i in record.artifacts or ()}
    for artifact_id in workspace.folders():
        if workspace.half_deleted(artifact_id):
            continue
        errors = damage(workspace, artifact_id, deep)
        if errors:
            todo = UPLOAD if workspace.backend.mendable(artifact_id, errors) else makes(artifact_id)
            found += [_said(error, todo, artifact=artifact_id) for error in errors]
        try:
            manifest = workspace.read(artifact_id)
        except StorageError:
            if not errors and artifact_id in used and not _set_aside(workspace, artifact_id):
                lost = ArtifactDamaged(workspace.folder(artifact_id) / MANIFEST, "a manifest", "no file")
                found.append(_said(lost, makes(artifact_id), artifact=artifact_id))
            continue
        whole.append(manifest)
        found += [Damage("unknown", path, "nothing", "a file", ASIDE) for path in strays(workspace, manifest)]
        bad = workspace.backend.stale(manifest, deep)
        found += [Damage("cache", path, "its object", "other bytes", AGAIN) for path in bad]
    return [*found, *_copies(workspace, whole, deep, makes), *_reports(workspace), *_unknown(workspace)]


class _Makes:
    """The command that makes an artifact again."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.of_removal = {m.id: m.summary.get("concept") for m in workspace.artifacts("removal")}
        self.asked: set[str] | None = None
        try:
            config = runs.remembered(workspace)
            if config.tune.concepts is not None:
                self.asked = {*config.tune.concepts, *(a.name for a in concepts.joined(workspace, config))}
        except (SaeuronError, StorageError):
            pass

    def __call__(self, artifact_id: str) -> str:
        # Imported here, because loading the stages takes seconds and only damage needs it.
        from tasks.stages import every

        stage, summary = every().get(split_id(artifact_id)[0]), self._summary(artifact_id)
        if stage is None or summary.get("source"):
            return OTHERS
        if stage.in_run and "{concept}" in stage.command:
            concept = self._concept(artifact_id)
            run_makes_it = concept is None or self.asked is None or concept in self.asked
            if run_makes_it:
                return RUN
            summary = {**summary, "concept": concept}
        try:
            return stage.command.format_map({k: shlex.quote(str(v)) for k, v in summary.items()}) or OTHERS
        except KeyError:
            return OTHERS

    def _summary(self, artifact_id: str) -> dict[str, Any]:
        manifest = _quietly(self.workspace.read, artifact_id)
        if manifest:
            return dict(manifest.summary)
        # A damaged manifest may still be JSON, which is enough to name a command.
        found = _quietly(read_json, self.workspace.folder(artifact_id) / MANIFEST)
        summary = found.get("summary") if isinstance(found, dict) else None
        return summary if isinstance(summary, dict) else {}

    def _concept(self, artifact_id: str) -> str | None:
        stage, _ = split_id(artifact_id)
        manifest = _quietly(self.workspace.read, artifact_id) if stage in ("images", "judgements") else None
        if manifest and stage == "judgements":
            manifest = _quietly(self.workspace.read, manifest.inputs["images"])
        if manifest and (removals := manifest.inputs.get("removals")):
            return self.of_removal.get(removals[0])
        return self._summary(artifact_id).get("concept")


def _quietly(read: Callable[[Any], Any], what: Path | str) -> Any:
    try:
        return read(what)
    except StorageError:
        return None


def _said(error: ArtifactDamaged, todo: str, **more: Any) -> Damage:
    path, expected, found = error.args
    kind = "missing" if found == "no file" else "unreadable"
    if kind != "missing":
        kind = "size" if expected.endswith(" bytes") else "bytes" if expected.startswith("SHA-256") else kind
    return Damage(kind, Path(path), expected, found, todo, **more)


def _config(workspace: Workspace) -> Iterator[Damage]:
    path, seal = workspace.root / runs.CONFIG, workspace.runs / runs.CONFIG_SEAL
    if not path.exists() and not seal.exists():
        return
    try:
        if not path.exists():
            raise ArtifactDamaged(path, "the last configuration", "no file")
        if not seal.exists():
            raise ArtifactDamaged(path, f"its SHA-256 in {seal.name}", "none")
        runs.remembered(workspace)
    except ArtifactDamaged as error:
        sealed = seal.read_bytes() if seal.exists() else b""
        kept = {digest(p).encode(): p for p in sorted((workspace.runs / "configs").glob("*.json"))}
        if sealed in kept:
            yield _said(error, REWRITE, source=kept[sealed])
        elif path.exists() and (sha := digest(path).encode()) in kept:
            # Some run has this very text, so the seal is wrong.
            kind, other = ("bytes", "another") if sealed else ("missing", "no file")
            yield Damage(kind, seal, f"SHA-256 {sha[:12].decode()}…", other, REWRITE, source=sha)
        else:
            yield _said(error, "saeuron run CONFIG", beside=(seal,))


def _concepts(workspace: Workspace) -> Iterator[Damage]:
    for path in sorted((workspace.root / "concepts").glob("*")):
        if path.name.startswith("."):
            continue
        if path.suffix != ".json" or not path.stem.isdigit():
            yield Damage("unknown", path, "nothing", "a file", ASIDE)
            continue
        yield from _readable(path, concepts.entry, "saeuron concept add FILE")


def _runs(workspace: Workspace) -> Iterator[Damage]:
    configs = workspace.runs / "configs"
    for run_id in sorted({p.stem for folder in (workspace.runs, configs) for p in folder.glob("*.json")}):
        record, config = workspace.runs / f"{run_id}.json", configs / f"{run_id}.json"
        told = _quietly(runs.record, record)
        # A run that was killed as it began has no configuration yet.
        if told and told.state == "running" and not config.exists():
            continue
        yield from _readable(record, runs.record, ASIDE, beside=(config,))
        yield from _readable(config, partial(_as_told, told), ASIDE, beside=(record,))


def _as_told(told: runs.Record | None, config: Path) -> None:
    read_json(config)
    if told and (sha := digest(config)) != told.config:
        raise ArtifactDamaged(config, f"SHA-256 {told.config[:12]}…", f"{sha[:12]}…")


def _readable(path: Path, read: Callable[[Path], Any], todo: str, **more: Any) -> Iterator[Damage]:
    try:
        if not path.exists():
            raise ArtifactDamaged(path, "a JSON file", "no file")
        read(path)
    except ArtifactDamaged as error:
        yield _said(error, todo, **more)


def _copies(workspace: Workspace, manifests: list[Manifest], deep: bool, makes: _Makes) -> Iterator[Damage]:
    """Files in removals/ and pictures/ that differ from the artifact they were copied from."""
    # A run that was cut short may not have published what it made; the next one does.
    told = runs.records(workspace)
    cut = any(record.state != "completed" for record in told)
    ended = {i for record in told if record.state == "completed" for i in record.artifacts or ()}
    used = {i for record in told if record.flow != runs.LEAVE_OUT for i in record.artifacts or ()}
    unused = {i for record in told if record.flow == runs.LEAVE_OUT for i in record.artifacts or ()} - used
    records = (workspace.root / "concepts").glob("*.json")
    dropped = {c.name for c in (_quietly(concepts.entry, path) for path in records) if c and c.dropped}
    methods = _methods(workspace)
    wanted: dict[Path, list[tuple[Manifest, ManifestFile]]] = {}
    for manifest in sorted(manifests, key=lambda m: m.created):
        for path, file in copies(workspace, manifest).items():
            wanted.setdefault(path, []).append((manifest, file))
    for path in sorted(p for p in workspace.removals.glob("*.safetensors") if p not in wanted):
        if header(path) is None:
            yield Damage("unreadable", path, "a removal", "something else", ASIDE)
        else:
            yield from _beside(workspace, path, _removal_named(path), makes)
    for path, originals in wanted.items():
        # `saeuron gc` deletes the copies of a dropped concept first.
        left = originals[-1][0].summary.get("concept") in dropped and not path.exists()
        pending = cut and not path.exists() and not ended & {manifest.id for manifest, _ in originals}
        method = originals[-1][0].summary.get("method")
        control = not path.exists() and method is not None and method not in (methods or (method,))
        measured = not path.exists() and unused >= {manifest.id for manifest, _ in originals}
        if left or pending or control or measured or any(same(path, file, deep) for _, file in originals):
            continue
        named = _removal_named(path)
        if named and named not in {manifest.id for manifest, _ in originals} and _put_away(workspace, named):
            yield from _beside(workspace, path, named, makes)
            continue
        for manifest, file in originals:
            with suppress(StorageError):
                workspace.fetch(manifest.id, file.name)
        good = [m for m, f in originals if same(workspace.folder(m.id) / f.name, f)]
        chosen = next((m for m in good if m.id == named), good[-1] if good else None)
        expected = f"a copy of {(chosen or originals[-1][0]).stage}"
        found = "something else" if path.exists() else "no file"
        if chosen:
            name = next(f.name for m, f in originals if m is chosen)
            yield Damage("copy", path, expected, found, REWRITE, source=workspace.folder(chosen.id) / name)
        else:
            yield Damage("copy", path, expected, found, makes(originals[-1][0].id))


def _methods(workspace: Workspace) -> tuple[str, ...] | None:
    """The methods of the last configuration; None if there is none to read. Removals by controls are not published."""
    with suppress(StorageError, ConfigError):
        return runs.remembered(workspace).method
    return None


def _beside(workspace: Workspace, path: Path, named: str | None, makes: _Makes) -> Iterator[Damage]:
    """Compare the copy with its artifact's file, if the manifest is gone; skip it when the file is gone too."""
    twin = workspace.folder(named) / "removal.safetensors" if named else None
    if named and twin and twin.is_file() and twin.read_bytes() != path.read_bytes():
        yield Damage("copy", path, "the bytes of its artifact", "others", makes(named))


def _removal_named(path: Path) -> str | None:
    """The artifact that a file in removals/ says it is a copy of; the file may be damaged."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    found = ids_in(path.read_bytes()[:HEADER].decode("utf-8", "replace"))
    return next((i for i in sorted(found) if split_id(i)[0] == "removal"), None)


def _put_away(workspace: Workspace, artifact_id: str) -> bool:
    return workspace.folder(artifact_id).exists() or _set_aside(workspace, artifact_id)


def _set_aside(workspace: Workspace, artifact_id: str) -> bool:
    """Whether --repair has set aside the artifact or a part of it."""
    return any(workspace.damaged.glob(f"*/{workspace.folder(artifact_id).relative_to(workspace.root)}"))


def _reports(workspace: Workspace) -> Iterator[Damage]:
    """Damaged pages among those that `saeuron sae report` names; other files belong to the user."""
    for path in (p for p in sorted(workspace.reports.glob("*.html")) if is_id(p.stem)):
        yield from _readable(path, check_page, command("sae", "report", path.stem))


def _unknown(workspace: Workspace) -> Iterator[Damage]:
    places = [path for path in workspace.root.iterdir() if path.name not in PLACES]
    for path in (workspace.root / "artifacts").glob("*"):
        inside = list(path.glob("*")) if path.is_dir() else []
        places += [p for p in inside if not p.is_dir() or not is_id(p.name) or split_id(p.name)[0] != path.name]
        if not path.is_dir():
            places.append(path)
    for path in sorted(places):
        if not path.name.startswith("."):
            yield Damage("unknown", path, "nothing", "a folder" if path.is_dir() else "a file", ASIDE)


def opened(root: Path, migrate: bool = False) -> tuple[Workspace, list[Damage]]:
    """The workspace at `root`, even if the file that makes it one is damaged. Raises as `Workspace.open` does."""
    try:
        return Workspace.open(root, create=False, migrate=migrate), []
    except NotAWorkspace:
        root = root.expanduser().absolute()
        # One that was made and never used holds nothing else; other folders are not taken for a workspace.
        unused = (root / MARK).is_file() and not {p.name for p in root.glob("[!.]*")} - PLACES
        if not (root / "artifacts").is_dir() and not unused:
            raise
        wanted = json.dumps({"format": FORMAT}, indent=2)
        found = "something else" if (root / MARK).exists() else "no file"
        return Workspace(root), [Damage("unreadable", root / MARK, wanted, found, REWRITE, source=wanted.encode())]


def repair(workspace: Workspace, find: Callable[[], list[Damage]]) -> tuple[list[Damage], Path]:
    """Set everything aside that `find` finds, under the lock that keeps runs from starting.

    Returns what was found, and the folder where it is now. Raises ConfigError while a run is at work.
    """
    with workspace.lock(runs.GATE):
        if busy := workspace.alive():
            place = workspace.address
            raise ConfigError(f"run {busy[0]} is at work in {place}; expected none: repair when it has ended.")
        found = find()
        now = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
        taken = len(list(workspace.damaged.glob(f"{now}*")))
        stamp = f"{now}-{taken}" if taken else now
        # Copies last: they are copied from the artifacts that stayed.
        for each in sorted(found, key=lambda d: d.kind == "copy"):
            if each.todo == UPLOAD:
                workspace.backend.mend(each.artifact, each.path, stamp)
                continue
            if each.artifact:
                forget(workspace, each.artifact, stamp)
                continue
            data = each.source.read_bytes() if isinstance(each.source, Path) else each.source
            for path in (each.path, *each.beside):
                if path.exists():
                    workspace.backend.set_aside(path, stamp)
            if data is not None:
                workspace.write(each.path, data)
    return found, workspace.damaged / stamp


def commands(workspace: Workspace, found: list[Damage]) -> list[str]:
    """The commands that make missing artifacts again after a repair, each once."""
    config = workspace.root / runs.CONFIG
    own = config if config.exists() else "CONFIG"
    whole = {"saeuron run": command("run", own), "saeuron run CONFIG": "saeuron run CONFIG"}
    todo = dict.fromkeys(d.todo for d in found if d.todo not in (REWRITE, ASIDE, OTHERS, UPLOAD, AGAIN))
    return list(dict.fromkeys(whole.get(each, each) + at(workspace) for each in todo))


def page(workspace: Workspace, found: list[Damage]) -> str:
    """A row per damage; the path, which may be long, is last."""
    rows = [
        {
            "damage": each.kind,
            "what to do": each.todo,
            "expected": f"{each.expected}, has {each.found.split()[0]}" if each.kind == "size" else each.expected,
            "path": each.path.relative_to(workspace.root),
        }
        for each in found
    ]
    return text_table(["damage", "what to do", "expected", "path"], rows, wrapped=["what to do", "expected"])
