"""Relations of diagnosed SAEs, from the files of `saeuron sae report` (`tasks/sae/report.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from storage.catalog.columns import COLUMNS
from storage.catalog.source import Source
from storage.manifests import Manifest
from storage.parquet import write_parquet
from storage.tables import schema
from storage.workspace import Workspace


def _of(view: str, names: str) -> pa.Schema:
    """Some columns of a view: those of the file behind it."""
    known = {column.name: column for column in COLUMNS[view]}
    return schema(known[name] for name in names.split())


MAPS = ("heat", "heat_noisy", "heat_middle", "heat_clean")
"""Maps of a latent over an image, h * w bytes each, 255 for the latent's overall maximum: where it is largest, and its
mean over each third of the steps. Null: kept without maps; a third without steps, as in a text encoder."""
FILES = {
    "latent": _of("latents", "latent density image_density mean maximum max_cosine nearest dead always_on"),
    "profile": _of("latent_steps", "latent timestep density mean maximum"),
    "example": pa.schema(
        [
            *_of("top_examples", "latent rank prompt_id image_index mean timestep position value"),
            *((name, pa.binary()) for name in MAPS),
        ]
    ),
    "step": _of("sae_steps", "timestep half rows fvu relative l0 loss_clean loss_sae loss_zero"),
}
"""{kind: columns of the file `<kind>s.parquet`} of a diagnosis."""
STABILITY_COLUMNS = _of("latents", "latent stability counterpart")
_EXAMPLES_ROWS = 2048
"""Rows of a row group of examples: a page shows one latent, and maps of all of them take 168 MB where there are 20,480
latents and 256 positions."""
_DIAGNOSES = pa.schema(
    [
        ("file_index", pa.uint64()),
        *((name, pa.string()) for name in ("id", "sae_id", "hookpoint", "against_id")),
        ("current", pa.bool_()),
    ]
)


def diagnosis_sources(workspace: Workspace) -> list[Source]:
    """The tables of every diagnosis and every comparison of two SAEs; the newest of each SAE is current."""
    seen, compared = workspace.artifacts("diagnosis"), workspace.artifacts("stability")
    return [
        _about("diagnosis_files", seen),
        *(
            Source(f"{kind}_rows", columns, files=_paths(workspace, seen, f"{kind}s"))
            for kind, columns in FILES.items()
        ),
        _about("stability_files", compared),
        Source(
            "stability_rows",
            STABILITY_COLUMNS,
            files=tuple(workspace.folder(m.id) / "stability.parquet" for m in compared),
        ),
    ]


def write_examples(path: Path, examples: pa.Table) -> None:
    """Write the table of examples, sorted by latent, so that those of one latent are read alone. Raises DiskFull."""
    write_parquet(path, examples, row_group=_EXAMPLES_ROWS)


def _paths(workspace: Workspace, manifests: Sequence[Manifest], name: str) -> tuple[Path, ...]:
    return tuple(workspace.folder(m.id) / f"{name}.parquet" for m in manifests)


def _about(name: str, manifests: Sequence[Manifest]) -> Source:
    newest: dict[str, tuple[str, str]] = {}
    for m in manifests:
        sae_id = m.summary["sae_id"]
        newest[sae_id] = max(newest.get(sae_id, ("", "")), (m.created, m.id))
    rows = [
        {
            "file_index": index,
            "id": m.id,
            **{key: m.summary.get(key) for key in ("sae_id", "hookpoint", "against_id")},
            "current": newest[m.summary["sae_id"]][1] == m.id,
        }
        for index, m in enumerate(manifests)
    ]
    return Source(name, _DIAGNOSES, pa.Table.from_pylist(rows, schema=_DIAGNOSES))
