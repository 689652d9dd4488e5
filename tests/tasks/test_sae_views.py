"""What SQL says of an SAE that was looked at is what the files say."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import storage.catalog.diagnosis as catalog
from saeuron.pipelines.loading import identity
from saeuron.sae.diagnosis import DiagnosisConfig
from storage import Workspace
from storage.catalog.query import run_query
from storage.tables import read_table
from tasks.registry import runs
from tasks.sae.report import DiagnosisJob, StabilityJob, diagnose, stability
from tests.sae_workspace import HOOKPOINTS, build


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """A workspace whose first SAE was looked at twice, and compared with itself; leave it as you found it."""
    workspace = build(tmp_path_factory.mktemp("looked") / "workspace", tiny_model_folder)
    sae = next(m.id for m in workspace.artifacts("sae") if m.summary["hookpoint"] == HOOKPOINTS[0])
    stability.fn(StabilityJob(workspace=workspace.root, sae_id=sae, against_id=sae))
    for images in (3, 5):
        config = runs.remembered(workspace)
        job = DiagnosisJob(
            workspace=workspace.root,
            model=config.model,
            model_id=identity(config.model.spec),
            config=DiagnosisConfig(images=images, rows=40, examples=2, loss_images=2, loss_steps=1),
            sae_id=sae,
            prompts_id=workspace.artifacts("prompts")[0].id,
        )
        diagnose.fn(job)
    return workspace


def newest(workspace: Workspace) -> Path:
    return workspace.folder(max(workspace.artifacts("diagnosis"), key=lambda m: m.created).id)


SCHEMAS = {f"{kind}s": columns for kind, columns in catalog.FILES.items()} | {"stability": catalog.STABILITY_COLUMNS}


@pytest.mark.parametrize("name", SCHEMAS)
def test_files_have_the_columns_that_the_catalog_reads(looked: Workspace, name: str) -> None:
    folder = newest(looked) if name != "stability" else looked.folder(looked.artifacts("stability")[0].id)
    assert read_table(folder / f"{name}.parquet").schema.equals(SCHEMAS[name])


@pytest.mark.parametrize(
    ("view", "file"),
    [("latents", "latents"), ("latent_steps", "profiles"), ("top_examples", "examples"), ("sae_steps", "steps")],
)
def test_views_show_the_newest(looked: Workspace, view: str, file: str) -> None:
    expected = read_table(newest(looked) / f"{file}.parquet")
    names = [name for name in expected.column_names if name not in catalog.MAPS]
    found = run_query(looked, f"select {', '.join(names)} from {view} order by all")
    assert found.num_rows == expected.num_rows > 0
    assert found.to_pylist() == expected.select(names).sort_by([(n, "ascending") for n in names]).to_pylist()


def test_the_examples_of_one_latent_are_read_alone(tmp_path: Path) -> None:
    count = 3000
    columns = {field.name: pa.nulls(count, field.type) for field in catalog.FILES["example"]}
    whole = pa.table(columns | {"latent": pa.array(np.arange(count) // 10, pa.uint32())}, catalog.FILES["example"])
    catalog.write_examples(tmp_path / "examples.parquet", whole)
    groups = pq.read_metadata(tmp_path / "examples.parquet")
    bounds = [groups.row_group(i).column(0).statistics for i in range(groups.num_row_groups)]
    assert sum(b.min <= 7 <= b.max for b in bounds) == 1 < len(bounds)
    found = read_table(tmp_path / "examples.parquet", pc.field("latent").isin([299, 7]))
    assert found["latent"].to_pylist() == [7] * 10 + [299] * 10 and found.schema.equals(whole.schema)


def test_latents_know_their_density_and_their_counterparts(looked: Workspace) -> None:
    rows = run_query(looked, "select * from latents order by latent").to_pylist()
    assert {row["hookpoint"] for row in rows} == {HOOKPOINTS[0]} and {row["sae_id"] for row in rows} == {
        row["against_id"] for row in rows
    }
    for row in rows:
        assert row["counterpart"] == row["latent"] and row["stability"] == pytest.approx(1)
        if row["density"] > 0:
            assert 10 ** row["log10_density"] == pytest.approx(row["density"])
        else:
            assert row["log10_density"] is None and row["dead"]


def test_latents_join_scores_and_prompts(looked: Workspace) -> None:
    best = run_query(
        looked,
        "select l.latent, s.concept, max(s.score) as score from latents l "
        "join scores s on s.sae_id = l.sae_id and s.latent = l.latent group by all",
    )
    assert best.num_rows == 2 * 32
    shown = run_query(looked, "select p.split from top_examples e join prompts p using (prompt_id)")
    assert set(shown["split"].to_pylist()) == {"test"}
