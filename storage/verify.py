"""Find what is damaged in a workspace's artifacts, and put it out of the way: moved, never deleted.

A manifest holds the hash of every file of its artifact, a sidecar that of its shard. Other files are not trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from storage.dense import shards
from storage.errors import ArtifactDamaged, ArtifactMissing, StorageError
from storage.identity import artifact_id as id_of
from storage.layout import MANIFEST
from storage.manifests import Manifest, ManifestFile, differences, listed
from storage.workspace import Workspace

_IDS = re.compile(r"[a-z][a-z0-9_]*_v[0-9]+_[0-9a-f]{20}")


def damage(workspace: Workspace, artifact_id: str, deep: bool = False) -> list[ArtifactDamaged]:
    """The damage of an artifact, in its folder or on the object store; empty if it is whole or absent.

    Sizes are compared, JSON is read, and with `deep` every byte. Of an artifact that is not committed only shards with
    a sidecar can be judged: the rest is work in progress.
    """
    folder = workspace.folder(artifact_id)
    try:
        manifest = workspace.backend.stored(artifact_id)
        found = list(workspace.backend.damage(manifest, deep))
    except ArtifactMissing:
        return list(_shards(folder, deep))
    except ArtifactDamaged as error:
        return [error, *_shards(folder, deep)]
    # The id is a hash of the configuration.
    if manifest.config and id_of(manifest.stage, manifest.version, manifest.config) != manifest.id:
        found.insert(0, ArtifactDamaged(folder / MANIFEST, f"the config of {manifest.id}", "another"))
    return found


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
    """Files in a committed artifact's folder that its manifest does not list. Hidden ones are skipped."""
    folder = workspace.folder(manifest.id)
    known = {file.name for file in manifest.files}
    return [folder / name for name in listed(folder) if name not in known]


def forget(workspace: Workspace, artifact_id: str, stamp: str) -> None:
    """Set aside an artifact's manifest and its damaged files, so that it is made again.

    Every byte is read: without the manifest nothing would find a damage later. Whole files stay, because a stage
    continues from its shards; if the manifest itself is damaged, only whole shards stay.
    """
    folder = workspace.folder(artifact_id)
    workspace.backend.uncommit(artifact_id, stamp)
    try:
        manifest = workspace.read(artifact_id)
        bad = {Path(error.args[0]) for error in differences(folder, manifest.files, lambda name: True)}
    except StorageError:
        torn = {Path(error.args[0]) for error in _shards(folder, deep=True)}
        pairs = [{shard, shards.sidecar(shard)} for shard in folder.rglob("*.tar")]
        whole = {path for pair in pairs if not pair & torn and all(p.exists() for p in pair) for path in pair}
        bad = {folder / name for name in listed(folder)} - whole
    bad |= {shards.sidecar(path) for path in bad if path.suffix == ".tar"}
    # There even if nothing is moved: it says that the manifest is missing on purpose.
    (workspace.damaged / stamp / folder.relative_to(workspace.root)).mkdir(parents=True, exist_ok=True)
    # The manifest first: killed after that, the artifact does not exist any more.
    for path in (folder / MANIFEST, *sorted(bad)):
        if path.exists():
            workspace.backend.set_aside(path, stamp)


def copies(workspace: Workspace, manifest: Manifest) -> dict[Path, ManifestFile]:
    """{path of a copy for people: the file of the artifact that it is a copy of}."""
    places = manifest.publishes
    return {workspace.root / places[file.name]: file for file in manifest.files if file.name in places}


def ids_in(value: object) -> set[str]:
    """Every artifact id in a text, or in what JSON holds: what a manifest refers to, or the header of a removal."""
    return set(_IDS.findall(value if isinstance(value, str) else json.dumps(value)))
