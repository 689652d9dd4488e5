"""Views that stages declare: those of built-in stages, and those that manifests bring from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.catalog.columns import COLUMNS
from storage.catalog.source import Row, Source, table
from storage.declared import View
from storage.manifests import Manifest
from storage.tables import SHIPPED, schema
from storage.workspace import Workspace

_FILES = pa.schema([("file_index", pa.uint64()), ("id", pa.string())])


def brought(manifests: Iterable[Manifest]) -> dict[str, View]:
    """The views that manifests declare, {name: view}. If a name is declared several times, the newest counts.

    The catalog's own names take precedence.
    """
    found: dict[str, tuple[tuple[str, str], View]] = {}
    for manifest in manifests:
        age = (manifest.created, manifest.id)
        for view in manifest.views:
            if view.name not in COLUMNS and (view.name not in found or found[view.name][0] < age):
                found[view.name] = age, view
    return {name: view for name, (_, view) in sorted(found.items())}


def declared_sources(
    workspace: Workspace, stages: Mapping[str, Sequence[Manifest]]
) -> tuple[list[Source], dict[str, View]]:
    """The relations behind the declared views, and the views, {name: view}.

    An artifact is included only if its declaration equals the newest one, so that columns are those of one version.
    """
    everything = [manifest for manifests in stages.values() for manifest in manifests]
    members = {view.name: (view, [*stages.get(stage, ())]) for stage, views in SHIPPED.items() for view in views}
    for name, view in brought(everything).items():
        members[name] = view, [manifest for manifest in everything if view in manifest.views]
    sources: list[Source] = []
    for view, manifests in members.values():
        sources += _of_files(workspace, view, manifests) if view.file else [_of_summaries(view, manifests)]
    return sources, {name: view for name, (view, _) in members.items()}


def _of_files(workspace: Workspace, view: View, manifests: Sequence[Manifest]) -> list[Source]:
    held = [m for m in manifests if any(file.name == view.file for file in m.files)]
    about: list[Row] = [{"file_index": index, "id": m.id} for index, m in enumerate(held)]
    files = tuple(workspace.folder(m.id) / view.file for m in held)
    return [
        Source(f"view_{view.name}_files", _FILES, table(about, _FILES)),
        Source(f"view_{view.name}_rows", schema(view.columns), files=files),
    ]


def _of_summaries(view: View, manifests: Sequence[Manifest]) -> Source:
    names = [column.name for column in view.columns]
    rows: list[Row] = [{view.key: m.id, **{name: _told(m, name) for name in names}} for m in manifests]
    whole = pa.schema([(view.key, pa.string()), *schema(view.columns)])
    return Source(f"view_{view.name}", whole, table(rows, whole))


def _told(manifest: Manifest, name: str) -> Any:
    if name not in manifest.summary and name.endswith("_id"):
        return manifest.inputs.get(name.removesuffix("_id"))
    return manifest.summary.get(name)


def sql(view: View) -> str:
    """The SQL statement that creates a declared view."""
    if not view.file:
        return f'CREATE VIEW "{view.name}" AS SELECT * FROM source."view_{view.name}"'
    columns = ", ".join(f'r."{column.name}"' for column in view.columns)
    return (
        f'CREATE VIEW "{view.name}" AS SELECT f.id AS "{view.key}", {columns} '
        f'FROM source."view_{view.name}_rows" r JOIN source."view_{view.name}_files" f USING (file_index)'
    )
