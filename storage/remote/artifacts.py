"""Artifacts on an object store: uploaded, committed by one conditional write, fetched when they are read.

manifests/<id>.json                        the commit point: written once, by a conditional write, last
artifacts/<stage>/<id>/<payload>/<file>    the files; <payload> is a hash of their list, so that two writers with
                                           different bytes never write into one another
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from storage.backend import Backend, Unfinished
from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import json_text, write_atomic
from storage.identity import digest, is_id
from storage.layout import MANIFEST
from storage.manifests import Manifest, ManifestFile, differences, parse, same, within
from storage.remote.store import Stat, Store
from storage.seals import sealed

PENDING = ".manifest.json"
"""In an artifact's folder: the manifest of finished work that may not be uploaded yet."""
_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


class RemoteArtifacts(Backend):
    """The part of the object store's backend that handles artifacts."""

    @functools.cached_property
    def store(self) -> Store:
        """The store. No request is sent yet."""
        return Store(self.address)

    def publish(self, manifest: Manifest) -> Manifest:
        """Upload an artifact's files and commit it; returns the manifest that counts, perhaps another writer's.

        Killed at any point, the artifact is not committed, and `resume` uploads the rest. Of two writers the first
        manifest counts; files of the second that differ from it are deleted from the folder.
        """
        folder, data = self.folder(manifest.id), sealed(manifest.model_dump(mode="json"))
        write_atomic(folder / PENDING, data)
        self._upload(folder, manifest)
        counts, data = self._commit(manifest, data)
        for file in manifest.files:
            if file not in counts.files:
                (folder / file.name).unlink(missing_ok=True)
        write_atomic(self.manifest_path(manifest.id), data)
        (folder / PENDING).unlink(missing_ok=True)
        return counts

    def resume(self, artifact_id: str) -> None:
        """Publish work that was finished here and not committed: its process was killed, or the store was away."""
        path = self.folder(artifact_id) / PENDING
        if not path.exists() or self.manifest_path(artifact_id).exists():
            return
        try:
            manifest = parse(path.read_bytes(), path, artifact_id)
            intact = not any(differences(path.parent, manifest.files, lambda name: True))
        except ArtifactDamaged:
            intact = False
        if intact:
            self.publish(manifest)
        else:
            path.unlink()

    def _commit(self, manifest: Manifest, data: bytes) -> tuple[Manifest, bytes]:
        """Write the manifest; returns the one that counts, and its bytes: another writer's if that one came first."""
        key = manifest_key(manifest.id)
        while not self.store.create(key, data):
            if (got := self.store.read(key)) is None:
                continue
            try:
                other = parse(got[0], Path(key), manifest.id)
                if not any(self.size_problems(other, self.store.listing(prefix(other)))):
                    return other, got[0]
            except ArtifactDamaged:
                pass
            # That commit has lost objects. Ours takes its place, unless another writer's has just done so.
            if self.store.replace(key, data, got[1]):
                break
        return manifest, data

    def _upload(self, folder: Path, manifest: Manifest) -> None:
        there = self.store.listing(prefix(manifest))
        todo = [(k, f) for k, f in _objects(manifest).items() if _size(there, k) != f.bytes]
        # One after the other: a large file is uploaded in several parts at once.
        for key, file in todo:
            self.store.write(key, folder / file.name)
        there = self.store.listing(prefix(manifest)) if todo else there
        for problem in self.size_problems(manifest, there):
            raise problem

    def read(self, artifact_id: str) -> Manifest:
        """The manifest of a committed artifact; if it is not here yet, ask the store and keep it.

        Raises ArtifactMissing, and ArtifactDamaged also if the store lacks objects that a new manifest lists.
        """
        path = self.manifest_path(artifact_id)
        if not path.exists() and (got := self.store.read(manifest_key(artifact_id))) is not None:
            manifest = parse(got[0], path, artifact_id)
            for problem in self.size_problems(manifest, self.store.listing(prefix(manifest))):
                raise problem
            write_atomic(path, got[0])
        return super().read(artifact_id)

    def stored(self, artifact_id: str) -> Manifest:
        got = self.store.read(manifest_key(artifact_id))
        if got is None:
            raise ArtifactMissing(artifact_id, f"a manifest in {self.address}")
        return parse(got[0], self.manifest_path(artifact_id), artifact_id)

    def fetch(self, artifact_id: str, names: Sequence[str]) -> None:
        """Download the files of an artifact that are not here: those in `names` (files or folders), or all.

        Raises ObjectDamaged if a file is not as the manifest says, ArtifactMissing if the artifact has none of a name.
        """
        manifest, folder = self.read(artifact_id), self.folder(artifact_id)
        for name in names:
            if not any(within(file.name, name) for file in manifest.files):
                raise ArtifactMissing(folder / name, "a file of the artifact")
        wanted = [(key, file) for key, file in _objects(manifest).items() if within(file.name, *names)]

        def download(item: tuple[str, ManifestFile]) -> None:
            key, file = item
            self.store.download(key, folder / file.name, file.bytes, file.sha256)

        for _ in concurrently(download, [(k, f) for k, f in wanted if not same(folder / f.name, f, deep=False)]):
            pass

    def bring(self, paths: Iterable[Path]) -> None:
        lacking: dict[str, list[str]] = {}
        for path in paths:
            if not path.exists():
                _, artifact_id, *name = path.relative_to(self.root / "artifacts").parts
                lacking.setdefault(artifact_id, []).append("/".join(name))
        for artifact_id, names in lacking.items():
            self.fetch(artifact_id, names)

    def check(self, manifest: Manifest) -> None:
        """Do nothing: the folder holds some of the files, and `read` and `refresh` have looked at the objects."""

    def whole(self, manifest: Manifest, names: Sequence[str]) -> None:
        """Fetch an artifact's files, and fetch those again whose copies here are damaged."""
        self.fetch(manifest.id, names)
        files = [file for file in manifest.files if within(file.name, *names)]
        bad = [Path(problem.args[0]) for problem in differences(self.folder(manifest.id), files, lambda name: True)]
        for path in bad:
            path.unlink(missing_ok=True)
        if bad:
            self.fetch(manifest.id, names)

    def damage(self, manifest: Manifest, deep: bool) -> Iterator[ArtifactDamaged]:
        """Damaged objects of an artifact. Each error names the path of the file in the folder."""
        there = self.store.listing(prefix(manifest))
        yield from self.size_problems(manifest, there)
        for key, file in _objects(manifest).items() if deep else ():
            if _size(there, key) == file.bytes and (sha := self.store.digest(key)) != file.sha256:
                at = self.folder(manifest.id) / file.name
                yield ArtifactDamaged(at, f"SHA-256 {file.sha256[:12]}…", f"{sha[:12]}…")

    def problems(self) -> list[str]:
        """One line for each artifact whose objects are not all there with their sizes, from one listing."""
        found, lines = self.store.listing(), []
        for artifact_id in sorted(name for key in found if (name := artifact_of(key))):
            path = self.manifest_path(artifact_id)
            try:
                manifest = parse(path.read_bytes(), path, artifact_id) if path.exists() else self.stored(artifact_id)
                lines += [str(problem) for problem in self.size_problems(manifest, found)]
            except (ArtifactMissing, ArtifactDamaged) as error:
                lines.append(str(error))
        return lines

    def size_problems(self, manifest: Manifest, found: dict[str, Stat]) -> Iterator[ArtifactDamaged]:
        """The files of a manifest that a listing lacks, or has with another size."""
        for key, file in _objects(manifest).items():
            if (size := _size(found, key)) != file.bytes:
                there = "no file" if size is None else f"{size} bytes"
                yield ArtifactDamaged(self.folder(manifest.id) / file.name, f"{file.bytes} bytes", there)

    def folders(self) -> list[str]:
        """The ids of all artifacts that have a folder here or a manifest in the store, sorted."""
        return sorted({*super().folders(), *self._committed()})

    def _committed(self) -> list[str]:
        """The ids of all artifacts with a manifest in the store, whole or not."""
        return [name for key in self.store.listing("manifests") if (name := artifact_of(key))]

    def delete(self, artifact_id: str) -> None:
        """Delete an artifact in the store, its manifest first, and then here."""
        self.store.delete([manifest_key(artifact_id)])
        self.store.delete(self.store.listing(self.folder(artifact_id).relative_to(self.root).as_posix()))
        super().delete(artifact_id)

    def uncommit(self, artifact_id: str, stamp: str) -> None:
        """Set an artifact's manifest and its damaged objects aside: it is not committed any more."""
        objects: dict[str, ManifestFile] = {}
        bad: set[Path] = set()
        try:
            manifest = self.stored(artifact_id)
            objects = _objects(manifest)
            bad = {Path(error.args[0]) for error in self.damage(manifest, deep=True)}
        except ArtifactMissing:
            return
        except ArtifactDamaged:
            pass
        names = [key for key, file in objects.items() if self.folder(artifact_id) / file.name in bad]
        for key in (manifest_key(artifact_id), *names):
            self.store.move(key, f"damaged/{stamp}/{key}")

    def mendable(self, artifact_id: str, errors: Sequence[ArtifactDamaged]) -> bool:
        paths = {Path(error.args[0]) for error in errors}
        if any(path.name == MANIFEST for path in paths):
            return False
        known = {self.folder(artifact_id) / file.name: file for file in self.stored(artifact_id).files}
        return all(same(path, known[path]) for path in paths)

    def mend(self, artifact_id: str, path: Path, stamp: str) -> None:
        key = f"{prefix(self.stored(artifact_id))}/{path.relative_to(self.folder(artifact_id)).as_posix()}"
        self.store.move(key, f"damaged/{stamp}/{key}")
        self.store.write(key, path)

    def stale(self, manifest: Manifest, deep: bool) -> list[Path]:
        there = [(self.folder(manifest.id) / file.name, file) for file in manifest.files]
        return [path for path, file in there if path.exists() and not same(path, file, deep)]

    def unfinished(self) -> list[Unfinished]:
        """Payloads that no manifest lists, by their keys. What has changed in the meantime is left out."""
        payloads: dict[str, list[Stat]] = {}
        for key, stat in self.store.listing("artifacts").items():
            payloads.setdefault("/".join(key.split("/")[:4]), []).append(stat)
        listed = set()
        for artifact_id in self._committed():
            try:
                listed.add(prefix(self.stored(artifact_id)))
            except ArtifactMissing:
                continue
        return [
            Unfinished(key, sum(s.size for s in stats), max(s.modified for s in stats))
            for key, stats in sorted(payloads.items())
            if key not in listed
        ]


def _objects(manifest: Manifest) -> dict[str, ManifestFile]:
    """{key: file} of an artifact."""
    folder = prefix(manifest)
    return {f"{folder}/{file.name}": file for file in manifest.files}


def prefix(manifest: Manifest) -> str:
    """The folder of an artifact's objects. Two lists of files that differ in a byte have different ones."""
    payload = digest(json_text([[file.name, file.sha256] for file in manifest.files]))[:12]
    return f"artifacts/{manifest.stage}/{manifest.id}/{payload}"


def manifest_key(artifact_id: str) -> str:
    """The key of an artifact's manifest."""
    return f"manifests/{artifact_id}.json"


def artifact_of(key: str) -> str | None:
    """The artifact whose manifest has this key, or None."""
    name = key.removeprefix("manifests/").removesuffix(".json")
    return name if manifest_key(name) == key and is_id(name) else None


def _size(found: dict[str, Stat], key: str) -> int | None:
    return found[key].size if key in found else None


def concurrently(do: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of several requests at once, in order. The first error ends it, after the requests in progress."""
    todo = list(items)
    if len(todo) < 2:
        yield from map(do, todo)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(do, todo)
