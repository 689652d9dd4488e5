"""The artifacts of a workspace on an object store: uploaded, committed by one conditional write, fetched when read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import json_text, write_atomic
from storage.identity import digest, is_id, split_id
from storage.manifests import MANIFEST, Manifest, ManifestFile, within
from storage.remote.store import Stat, Store
from storage.seals import read_sealed, sealed, unsealed

PENDING = ".manifest.json"
"""In an artifact's folder: the manifest of what is finished here, and perhaps not uploaded yet."""
_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unfinished(NamedTuple):
    """Objects that no manifest lists: of an upload that goes on or was cut short, or of a writer who came second."""

    key: str
    """The folder that holds them."""
    bytes: int
    modified: datetime


class RemoteArtifacts:
    """What is committed in a store, and the folders of one machine that it is fetched to."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url

    @functools.cached_property
    def store(self) -> Store:
        """The store; nothing is asked of it yet."""
        return Store(self.url)

    def publish(self, manifest: Manifest) -> Manifest:
        """Upload the files of an artifact and commit it; returns the manifest that counts, which may be another's.

        Killed at any point, the artifact is not committed, what was uploaded is not uploaded again, and `resume` goes
        on. Of two writers the one whose manifest comes first counts; files of the other that differ are deleted here.
        """
        folder, data = self._folder(manifest.id), sealed(manifest.model_dump(mode="json"))
        write_atomic(folder / PENDING, data)
        self._upload(folder, manifest)
        counts, data = self._committed(manifest, data)
        for file in manifest.files:
            if file not in counts.files:
                (folder / file.name).unlink(missing_ok=True)
        write_atomic(self.manifest_path(manifest.id), data)
        (folder / PENDING).unlink(missing_ok=True)
        return counts

    def resume(self, artifact_id: str) -> None:
        """Publish what a process here had finished, and was killed or left alone by the store while it uploaded."""
        path = self._folder(artifact_id) / PENDING
        if not path.exists() or self.manifest_path(artifact_id).exists():
            return
        try:
            manifest = _valid(read_sealed(path), path, artifact_id)
            whole = all(digest(path.parent / file.name) == file.sha256 for file in manifest.files)
        except (ArtifactDamaged, FileNotFoundError):
            whole = False
        if whole:
            self.publish(manifest)
        else:
            path.unlink()

    def _committed(self, manifest: Manifest, data: bytes) -> tuple[Manifest, bytes]:
        """The manifest that counts, and its bytes: this one, unless another writer came first."""
        key = manifest_key(manifest.id)
        while not self.store.create(key, data):
            if (got := self.store.read(key)) is None:
                continue
            try:
                other = parsed(got[0], Path(key), manifest.id)
                if self.whole(other, self.store.listing(prefix(other))):
                    return other, got[0]
            except ArtifactDamaged:
                pass
            # A commit whose objects were lost: ours takes its place, unless somebody else's has just done so.
            if self.store.replace(key, data, got[1]):
                break
        return manifest, data

    def _upload(self, folder: Path, manifest: Manifest) -> None:
        there = self.store.listing(prefix(manifest))
        todo = [(k, f) for k, f in _objects(manifest).items() if _size(there, k) != f.bytes]
        # One after the other: a large file goes up in several parts at once.
        for key, file in todo:
            self.store.write(key, folder / file.name)
        there = self.store.listing(prefix(manifest)) if todo else there
        for key, file in _objects(manifest).items():
            if (size := _size(there, key)) != file.bytes:
                raise ArtifactDamaged(f"{self.url}/{key}", f"{file.bytes} bytes", f"{size} after the upload")

    def whole(self, manifest: Manifest, found: dict[str, Stat]) -> bool:
        """Whether all that a manifest lists is in a listing, with its size."""
        return all(_size(found, key) == file.bytes for key, file in _objects(manifest).items())

    def settle(self, artifact_id: str) -> None:
        """See whether the artifact is committed, if that is not known here: by another machine, or nearly by this one.

        Raises ArtifactDamaged if the store's manifest is damaged, or lists what is not there.
        """
        path = self.manifest_path(artifact_id)
        if path.exists():
            return
        if (got := self.store.read(manifest_key(artifact_id))) is None:
            return
        manifest = parsed(got[0], path, artifact_id)
        for problem in self._sizes(manifest, self.store.listing(prefix(manifest))):
            raise problem
        write_atomic(path, got[0])

    def fetch(self, manifest: Manifest, names: Sequence[str]) -> None:
        """Bring the files of an artifact here that are not: those named, or in a folder that is, or all if none is.

        Raises ObjectDamaged if a file is not as the manifest says, ArtifactMissing if the artifact has none of a name.
        """
        folder, objects = self._folder(manifest.id), _objects(manifest)
        for name in names:
            if not any(within(file.name, name) for file in manifest.files):
                raise ArtifactMissing(folder / name, "a file of the artifact")
        wanted = [(k, f) for k, f in objects.items() if within(f.name, *names)]
        lacking = [(k, f) for k, f in wanted if _local_size(folder / f.name) != f.bytes]

        def bring(item: tuple[str, ManifestFile]) -> None:
            key, file = item
            self.store.download(key, folder / file.name, file.bytes, file.sha256)

        for _ in each(bring, lacking):
            pass

    def remove(self, artifact_id: str) -> None:
        """Delete an artifact in the store: its manifest first, so that it is no more, then the rest."""
        stage, _ = split_id(artifact_id)
        self.store.delete([manifest_key(artifact_id)])
        self.store.delete(self.store.listing(f"artifacts/{stage}/{artifact_id}"))

    def damage(self, artifact_id: str, deep: bool) -> Iterator[ArtifactDamaged]:
        """What is damaged of a committed artifact in the store; with `deep` every byte is read.

        Files are called by where they are, or would be, in the folder. Raises ArtifactMissing if it is not committed.
        """
        manifest = self.manifest(artifact_id)
        there = self.store.listing(prefix(manifest))
        yield from self._sizes(manifest, there)
        for key, file in _objects(manifest).items() if deep else ():
            if _size(there, key) == file.bytes and (sha := self.store.digest(key)) != file.sha256:
                at = self._folder(artifact_id) / file.name
                yield ArtifactDamaged(at, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")

    def manifest(self, artifact_id: str) -> Manifest:
        """The manifest as it is in the store. Raises ArtifactMissing, ArtifactDamaged."""
        got = self.store.read(manifest_key(artifact_id))
        if got is None:
            raise ArtifactMissing(artifact_id, f"a manifest in {self.url}")
        return parsed(got[0], self.manifest_path(artifact_id), artifact_id)

    def mend(self, artifact_id: str, name: str, stamp: str) -> None:
        """Set a damaged object aside and upload the file again from the folder, where it is whole."""
        key = f"{prefix(self.manifest(artifact_id))}/{name}"
        self.store.move(key, f"damaged/{stamp}/{key}")
        self.store.write(key, self._folder(artifact_id) / name)

    def forget(self, artifact_id: str, stamp: str) -> None:
        """Set an artifact's manifest aside, and those of its objects that are damaged: it is not committed any more."""
        try:
            manifest = self.manifest(artifact_id)
            bad = {Path(error.args[0]) for error in self.damage(artifact_id, deep=True)}
        except ArtifactMissing:
            return
        except ArtifactDamaged:
            bad, objects = set(), {}
        else:
            objects = _objects(manifest)
        key = manifest_key(artifact_id)
        self.store.move(key, f"damaged/{stamp}/{key}")
        for key, file in objects.items():
            if self._folder(artifact_id) / file.name in bad:
                self.store.move(key, f"damaged/{stamp}/{key}")

    def problems(self) -> list[str]:
        """One line for each artifact whose objects are not all there with their sizes, from one listing."""
        found, lines = self.store.listing(), []
        for artifact_id in sorted(name for key in found if (name := id_of(key))):
            path = self.manifest_path(artifact_id)
            try:
                manifest = parsed(path.read_bytes(), path, artifact_id) if path.exists() else self.manifest(artifact_id)
                lines += [str(problem) for problem in self._sizes(manifest, found)]
            except (ArtifactMissing, ArtifactDamaged) as error:
                lines.append(str(error))
        return lines

    def _sizes(self, manifest: Manifest, found: dict[str, Stat]) -> Iterator[ArtifactDamaged]:
        """Files are called by where they are, or would be, in the folder."""
        for key, file in _objects(manifest).items():
            if (size := _size(found, key)) != file.bytes:
                there = "no file" if size is None else f"{size} bytes"
                yield ArtifactDamaged(self._folder(manifest.id) / file.name, f"{file.bytes} bytes", there)

    def committed(self) -> list[str]:
        """The ids of all artifacts that have a manifest in the store, whole or not."""
        return sorted(name for key in self.store.listing("manifests") if (name := id_of(key)))

    def unfinished(self) -> list[Unfinished]:
        """Payloads that no manifest lists, by their keys; what has changed while it was looked at is left out."""
        payloads: dict[str, list[Stat]] = {}
        for key, stat in self.store.listing("artifacts").items():
            payloads.setdefault("/".join(key.split("/")[:4]), []).append(stat)
        listed = set()
        for artifact_id in self.committed():
            try:
                listed.add(prefix(self.manifest(artifact_id)))
            except ArtifactMissing:
                continue
        return [
            Unfinished(key, sum(s.size for s in stats), max(s.modified for s in stats))
            for key, stats in sorted(payloads.items())
            if key not in listed
        ]

    def _folder(self, artifact_id: str) -> Path:
        return self.root / "artifacts" / split_id(artifact_id)[0] / artifact_id

    def manifest_path(self, artifact_id: str) -> Path:
        """Where the manifest lies here, once it is known."""
        return self._folder(artifact_id) / MANIFEST


def parsed(data: bytes, path: Path, artifact_id: str) -> Manifest:
    """The manifest of an artifact from its bytes; `path` is what an error calls them. Raises ArtifactDamaged."""
    return _valid(unsealed(data, path), path, artifact_id)


def _valid(fields: dict[str, Any], path: Path, artifact_id: str) -> Manifest:
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise ArtifactDamaged(path, "a manifest", f"{error.error_count()} fields that do not fit") from None
    if manifest.id != artifact_id:
        raise ArtifactDamaged(path, f"the manifest of {artifact_id}", f"that of {manifest.id}")
    for file in manifest.files:
        # What is in a bucket others may have written: it names files within the artifact's folder, or nothing.
        name = PurePosixPath(file.name)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise ArtifactDamaged(path, "names of files in its folder", repr(file.name))
    return manifest


def _objects(manifest: Manifest) -> dict[str, ManifestFile]:
    """{key: file} of an artifact."""
    folder = prefix(manifest)
    return {f"{folder}/{file.name}": file for file in manifest.files}


def prefix(manifest: Manifest) -> str:
    """The folder of an artifact's objects: apart for two lists of files that differ in a byte."""
    payload = digest(json_text([[file.name, file.sha256] for file in manifest.files]))[:12]
    return f"artifacts/{manifest.stage}/{manifest.id}/{payload}"


def manifest_key(artifact_id: str) -> str:
    """Where an artifact's manifest stands in the store."""
    return f"manifests/{artifact_id}.json"


def id_of(key: str) -> str | None:
    """The artifact whose manifest stands there; None if none could."""
    name = key.removeprefix("manifests/").removesuffix(".json")
    return name if manifest_key(name) == key and is_id(name) else None


def _size(found: dict[str, Stat], key: str) -> int | None:
    return found[key].size if key in found else None


def _local_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def each(do: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Several requests at once; the first error ends it, and what was begun is waited for."""
    todo = list(items)
    if len(todo) < 2:
        yield from map(do, todo)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(do, todo)
