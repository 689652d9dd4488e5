"""All relations behind the views of a workspace. Needs no DuckDB, so a process that only fetches files starts fast."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from storage.catalog.columns import COLUMNS
from storage.catalog.declared import declared_sources
from storage.catalog.diagnosis import diagnosis_sources
from storage.catalog.source import Row, Source, table
from storage.catalog.tables import sources
from storage.declared import View
from storage.manifests import Manifest
from storage.workspace import Workspace

DAMAGED = "damaged"
"""The relation of what is damaged and so in no view: artifacts by id, records by path."""
_DAMAGED = pa.schema([("name", pa.string())])


def everything(workspace: Workspace) -> tuple[list[Source], dict[str, View]]:
    """The relations behind all views, and the views that stages declare, by name."""
    stages: dict[str, list[Manifest]] = {}
    damaged: list[str] = []
    for manifest in workspace.artifacts(left_out=damaged):
        stages.setdefault(manifest.stage, []).append(manifest)
    own, declared = declared_sources(workspace, stages)
    found = [*own, *sources(workspace, stages, damaged), *diagnosis_sources(workspace), _columns(declared)]
    return [*found, Source(DAMAGED, _DAMAGED, table([{"name": name} for name in damaged], _DAMAGED))], declared


def _columns(declared: Mapping[str, View]) -> Source:
    views = {**COLUMNS, **{name: view.described for name, view in declared.items()}}
    rows: list[Row] = [
        {"view_name": name, "column_name": c.name, "type": c.type, "unit": c.unit, "meaning": c.meaning}
        for name, columns in views.items()
        for c in columns
    ]
    schema = pa.schema([(column.name, pa.string()) for column in COLUMNS["columns"]])
    return Source("columns", schema, table(rows, schema))
