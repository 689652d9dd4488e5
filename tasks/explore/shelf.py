"""A workspace as it is at one time: its manifests by stage, its tables, its pictures."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow.compute as pc

from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.figures.metrics import Judged
from storage import Workspace, connect
from storage.dense import shards
from storage.errors import StorageError
from storage.manifests import Manifest
from storage.published import in_use
from storage.tables import IMAGES, JUDGEMENTS, read_table
from tasks.registry import runs

Row = dict[str, Any]
T = TypeVar("T")


class Shelf:
    """The contents of a workspace. They are read once, so it does not see what is made later; threads may share it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.manifests: dict[str, Manifest] = {}
        self.stages: dict[str, list[Manifest]] = {}
        for manifest in sorted(workspace.artifacts(), key=lambda m: (m.created, m.id)):
            self.manifests[manifest.id] = manifest
            self.stages.setdefault(manifest.stage, []).append(manifest)
        self.tables = connect(workspace)
        self._found: dict[Callable[[Shelf], Any], Any] = {}
        self.diagnoses: dict[str, Any] = {}
        """Measurements of SAEs that were read."""
        # Of this shelf alone: a cache of all shelves would keep former ones.
        self.index = functools.lru_cache(maxsize=256)(self._index)
        """The images of a set by key, in its order."""

    def of(self, stage: str, **wanted: Any) -> list[Manifest]:
        """The artifacts of a stage whose summaries have these values, oldest first."""
        return [m for m in self.stages.get(stage, ()) if all(m.summary.get(k) == v for k, v in wanted.items())]

    def newest(self, stage: str, **wanted: Any) -> Manifest | None:
        """The newest of them."""
        return next(reversed(self.of(stage, **wanted)), None)

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """The answer to a query of our own, with its bound values."""
        # A cursor of its own: threads may not share a connection.
        with self.tables.cursor() as cursor:
            cursor.execute(sql, list(values))
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @functools.cached_property
    def evaluations(self) -> dict[tuple[str, str], Manifest]:
        """{(concept, method): its newest evaluation}."""
        return {(m.summary["concept"], m.summary["method"]): m for m in self.of("evaluation")}

    @functools.cached_property
    def outdated(self) -> set[str]:
        """The removals in use whose domain has other concepts now."""
        return {row["removal_id"] for row in self.rows("select removal_id from removals where outdated")}

    @functools.cached_property
    def in_use(self) -> dict[tuple[str, str], str]:
        """{(concept, method): id} of the removals in `removals/`."""
        return in_use(self.workspace, self.of("removal"))

    @functools.cached_property
    def protocols(self) -> dict[str, str]:
        """{SAE: the protocol of its newest scores}."""
        return {s["sae_id"]: m.summary["protocol"] for m in self.of("score") for s in m.summary["saes"]}

    def once(self, find: Callable[["Shelf"], T]) -> T:
        """What a function finds in this shelf, kept from its first call on."""
        if find not in self._found:
            self._found[find] = find(self)
        found: T = self._found[find]
        return found

    @functools.cached_property
    def small(self) -> bool:
        """Whether pictures are so small that they are enlarged without smoothing."""
        return small(self)

    def _index(self, image_set_id: str) -> dict[str, Row]:
        folder = self.workspace.fetch(image_set_id, IMAGES.file)
        rows = read_table(folder / IMAGES.file).to_pylist()
        return {row["key"]: {**row, "asked": dict(row["asked"])} for row in rows}

    def png(self, image_set_id: str, key: str) -> bytes | None:
        """The PNG of an image; None if the set has none of that key."""
        row = self.index(image_set_id).get(key)
        return self.pngs(image_set_id, [row]).get(key) if row else None

    def pngs(self, image_set_id: str, rows: Iterable[Row]) -> dict[str, bytes]:
        """{key: PNG} of some images of a set."""
        found, wanted = {}, {(row["shard"], row["key"]) for row in rows}
        for shard in sorted({name for name, _ in wanted}):
            path = self.workspace.fetch(image_set_id, shard, f"{shard}.json") / shard
            for member in shards.read_manifest(path).members:
                if member.extension == "png" and (shard, member.key) in wanted:
                    found[member.key] = shards.read_member(path, member)
        return found

    def seen(self, judgements: Mapping[str, Sequence[str]], rows: Mapping[str, Sequence[Row]]) -> dict[str, Judged]:
        """Judgements of some images, by key.

        Args:
            judgements: {image set: its judgements, one a domain}, as an evaluation's job names them.
            rows: {image set: the images}.
        """
        found = {}
        for image_set_id, some in rows.items():
            seen: dict[str, dict[str, str | None]] = {}
            for name in judgements.get(image_set_id, ()):
                table = read_table(self.workspace.fetch(name, JUDGEMENTS.file) / JUDGEMENTS.file)
                wanted = pc.is_in(table["key"], pc.cast(_array(row["key"] for row in some), table["key"].type))
                for row in table.filter(wanted).to_pylist():
                    seen.setdefault(row["key"], {})[row["domain"]] = row["label"]
            for row in some:
                found[row["key"]] = Judged(row["prompt_id"], row["image_index"], row["asked"], seen.get(row["key"], {}))
        return found

    def whence(self, artifact_id: str) -> list[Manifest]:
        """The artifact and everything that it was made from, what was made last first. What is gone is left out."""
        found: dict[str, Manifest] = {}
        todo = [artifact_id]
        while todo:
            name = todo.pop()
            if name in found or name not in self.manifests:
                continue
            found[name] = self.manifests[name]
            todo += _ids(self.manifests[name].inputs)
        return sorted(found.values(), key=lambda m: (m.created, m.id), reverse=True)


def _array(keys: Iterable[str]) -> Any:
    import pyarrow as pa

    return pa.array(list(keys), pa.string())


def _ids(inputs: Any) -> list[str]:
    """Every text in an artifact's inputs; texts that are not ids do not name a manifest."""
    if isinstance(inputs, str):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    return [name for value in values for name in _ids(value)]


def small(shelf: Shelf) -> bool:
    """Whether the pictures of a workspace are so small that they are enlarged without smoothing."""
    from saeuron.pages.document import is_small
    from saeuron.pages.pictures import picture_of

    for manifest in shelf.of("images")[:3]:
        try:
            rows = list(shelf.index(manifest.id).values())[:1]
            for png in shelf.pngs(manifest.id, rows).values():
                return is_small(picture_of(png))
        except (StorageError, OSError):
            continue
    return True


def remembered(workspace: Workspace) -> RunConfig | None:
    """The workspace's configuration; None if there is none, or it is damaged."""
    try:
        return runs.remembered(workspace)
    except (ConfigError, StorageError):
        return None
