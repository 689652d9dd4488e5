"""What is damaged in a workspace's artifacts, and how it is put out of the way: moved, never deleted.

A manifest vouches for every file of its artifact, a sidecar for its shard. What nothing vouches for is not believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from storage import shards
from storage.errors import ArtifactDamaged, ArtifactMissing, StorageError
from storage.files import sync
from storage.identity import artifact_id as id_of
from storage.identity import digest
from storage.manifests import Manifest, ManifestFile, listed
from storage.workspace import MANIFEST, Workspace

_COPIES = {
    "removal": {"removal.safetensors": "removals/{}.safetensors"},
    "pictures": {"sheet.png": "pictures/{}_sheet.png", "scores.png": "pictures/{}_scores.png"},
}
"""Which files of an artifact are copied to where people look for them, by concept."""
_IDS = re.compile(r"[a-z][a-z0-9_]*_v[0-9]+_[0-9a-f]{20}")


def damage(workspace: Workspace, artifact_id: str, deep: bool = False) -> list[ArtifactDamaged]:
    """What is damaged in an artifact's folder; none if it is well, or absent.

    Of one on an object store the objects are looked at. Sizes are compared, JSON is read, and with `deep` every byte.
    Of an artifact that is not committed only whole shards can be judged: the rest is work in progress.
    """
    folder = workspace.folder(artifact_id)
    try:
        if workspace.remote:
            manifest = workspace.remote.artifacts.manifest(artifact_id)
            found = list(workspace.remote.artifacts.damage(artifact_id, deep))
        else:
            manifest = workspace.read(artifact_id)
            found = list(_files(folder, manifest, deep))
    except ArtifactMissing:
        return list(_shards(folder, deep))
    except ArtifactDamaged as error:
        return [error, *_shards(folder, deep)]
    # The configuration is what the id is a hash of.
    if manifest.config and id_of(manifest.stage, manifest.version, manifest.config) != manifest.id:
        found.insert(0, ArtifactDamaged(folder / MANIFEST, f"the config of {manifest.id}", "another"))
    return found


def _files(folder: Path, manifest: Manifest, deep: bool) -> Iterator[ArtifactDamaged]:
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            yield ArtifactDamaged(path, f"{file.bytes} bytes", "no file")
        elif (size := path.stat().st_size) != file.bytes:
            yield ArtifactDamaged(path, f"{file.bytes} bytes", f"{size} bytes")
        elif (deep or path.suffix == ".json") and (sha := digest(path)) != file.sha256:
            yield ArtifactDamaged(path, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")


def _shards(folder: Path, deep: bool) -> Iterator[ArtifactDamaged]:
    for beside in sorted(folder.rglob("*.tar.json")):
        shard = beside.with_suffix("")
        try:
            manifest = shards.read_manifest(shard)
            if deep:
                shards.check(shard, manifest)
        except ArtifactDamaged as error:
            yield error


def strays(workspace: Workspace, manifest: Manifest) -> list[Path]:
    """Files in a committed artifact's folder that its manifest does not know. Hidden ones are passed over."""
    folder = workspace.folder(manifest.id)
    known = {file.name for file in manifest.files}
    return [folder / name for name in listed(folder) if name not in known]


def set_aside(workspace: Workspace, path: Path, stamp: str) -> Path:
    """Move a file or a folder to the same place below `damaged/<stamp>/`; returns where it is."""
    if workspace.remote:
        workspace.remote.set_aside(path, stamp)
    target = workspace.damaged / stamp / path.relative_to(workspace.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    sync(target.parent)
    sync(path.parent)
    return target


def forget(workspace: Workspace, artifact_id: str, stamp: str) -> list[Path]:
    """Set aside an artifact's manifest, its records and all that is damaged, so that it is made again.

    Every byte is read: once the manifest is gone, nothing would find a damage that is there already. Whole files stay,
    for a stage goes on from its shards; where the manifest itself is damaged, only whole shards do.
    """
    folder = workspace.folder(artifact_id)
    if workspace.remote:
        workspace.remote.artifacts.forget(artifact_id, stamp)
    try:
        bad = {Path(error.args[0]) for error in _files(folder, workspace.read(artifact_id), deep=True)}
    except StorageError:
        torn = {Path(error.args[0]) for error in _shards(folder, deep=True)}
        pairs = [{shard, shards.sidecar(shard)} for shard in folder.rglob("*.tar")]
        whole = {path for pair in pairs if not pair & torn and all(p.exists() for p in pair) for path in pair}
        bad = {folder / name for name in listed(folder)} - whole
    bad |= {shards.sidecar(path) for path in bad if path.suffix == ".tar"}
    # The manifest first: killed after that, the artifact is no more.
    paths = [folder / MANIFEST, *sorted(bad), *workspace.records_of(artifact_id)]
    return [set_aside(workspace, path, stamp) for path in paths if path.exists()]


def mendable(workspace: Workspace, artifact_id: str, errors: list[ArtifactDamaged]) -> bool:
    """Whether each damaged object of an artifact lies whole in the folder of this machine."""
    if not workspace.remote or any(Path(error.args[0]).name == MANIFEST for error in errors):
        return False
    known = {file.name: file for file in workspace.remote.artifacts.manifest(artifact_id).files}
    folder = workspace.folder(artifact_id)
    paths = [Path(error.args[0]) for error in errors]
    return all(same(path, known[path.relative_to(folder).as_posix()]) for path in paths)


def mend(workspace: Workspace, artifact_id: str, path: Path, stamp: str) -> None:
    """Set the damaged object of an artifact's file aside, and upload the file again."""
    if workspace.remote:
        workspace.remote.artifacts.mend(artifact_id, path.relative_to(workspace.folder(artifact_id)).as_posix(), stamp)


def unlike(workspace: Workspace, manifest: Manifest, deep: bool) -> list[Path]:
    """What lies in a cache and is not as the object it was fetched from should be."""
    folder = workspace.folder(manifest.id)
    there = [(folder / file.name, file) for file in manifest.files if workspace.remote]
    return [path for path, file in there if path.exists() and not same(path, file, deep)]


def copies(workspace: Workspace, manifest: Manifest) -> dict[Path, ManifestFile]:
    """Where copies of an artifact's files lie for people, and what they are copies of."""
    names = _COPIES.get(manifest.stage, {})
    concept = manifest.summary.get("concept")
    return {
        workspace.root / names[file.name].format(concept): file
        for file in manifest.files
        if concept is not None and file.name in names
    }


def same(path: Path, file: ManifestFile, deep: bool = True) -> bool:
    """Whether the file at `path` has the size, and with `deep` the bytes, that a manifest says."""
    return path.is_file() and path.stat().st_size == file.bytes and (not deep or digest(path) == file.sha256)


def in_force(workspace: Workspace, removals: list[Manifest]) -> dict[str, str]:
    """{concept: id} of those removals whose copies lie in `removals/`: what `saeuron generate` takes."""
    return {
        manifest.summary["concept"]: manifest.id
        for manifest in removals
        for path, file in copies(workspace, manifest).items()
        if same(path, file)
    }


def ids_in(value: object) -> set[str]:
    """Every artifact id in a text, or in what JSON holds: what a manifest refers to, or the header of a removal."""
    return set(_IDS.findall(value if isinstance(value, str) else json.dumps(value)))


def header(path: Path) -> str | None:
    """The JSON that a safetensors file begins with; None if the file is not whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        rest = path.stat().st_size - 8 - length
        if rest < 0:
            return None
        try:
            text = file.read(length).decode()
            ends = [fields["data_offsets"][1] for name, fields in json.loads(text).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
    return text if max(ends, default=0) == rest else None
