"""Relations of diagnosed SAEs, from the files of `saeuron sae report` (`tasks/sae_report.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from storage.catalog.source import Source
from storage.manifests import Manifest
from storage.workspace import Workspace

LATENTS = pa.schema(
    [
        ("latent", pa.uint32()),
        *((name, pa.float64()) for name in ("density", "image_density", "mean", "maximum", "max_cosine")),
        ("nearest", pa.uint32()),
        ("dead", pa.bool_()),
        ("always_on", pa.bool_()),
    ]
)
PROFILES = pa.schema(
    [
        ("latent", pa.uint32()),
        ("timestep", pa.int32()),
        *((name, pa.float64()) for name in ("density", "mean", "maximum")),
    ]
)
EXAMPLES = pa.schema(
    [
        ("latent", pa.uint32()),
        ("rank", pa.int32()),
        ("prompt_id", pa.string()),
        ("image_index", pa.int32()),
        ("timestep", pa.int32()),
        ("position", pa.int32()),
        ("value", pa.float32()),
        ("heat", pa.binary()),  # h * w bytes, 255 is the latent's overall maximum
    ]
)
STEPS = pa.schema(
    [
        ("timestep", pa.int32()),
        ("half", pa.string()),
        ("rows", pa.int64()),
        *((name, pa.float64()) for name in ("fvu", "relative", "l0", "loss_clean", "loss_sae", "loss_zero")),
    ]
)
STABILITY = pa.schema([("latent", pa.uint32()), ("stability", pa.float64()), ("counterpart", pa.uint32())])

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
    files = {"latent": LATENTS, "profile": PROFILES, "example": EXAMPLES, "step": STEPS}
    names = {"latent": "latents.parquet", "profile": "profiles.parquet", "example": "examples.parquet",
             "step": "steps.parquet"}  # fmt: skip
    return [
        _about("diagnosis_files", seen),
        *(
            Source(f"{kind}_rows", schema, files=tuple(workspace.folder(m.id) / names[kind] for m in seen))
            for kind, schema in files.items()
        ),
        _about("stability_files", compared),
        Source(
            "stability_rows", STABILITY, files=tuple(workspace.folder(m.id) / "stability.parquet" for m in compared)
        ),
    ]


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
