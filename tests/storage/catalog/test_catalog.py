import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch

from saeuron import scoring
from storage.catalog.columns import COLUMNS
from storage.catalog.connection import connect, left_out
from storage.catalog.query import run_query
from storage.errors import ArtifactDamaged, BadQuery, NotAWorkspace
from storage.identity import artifact_id
from storage.seals import write_sealed
from storage.statistics.sums import FIXED_POINT, Sums
from storage.tables import IMAGES, JUDGEMENTS, METRICS, PROMPTS, table, write_table
from storage.workspace import Workspace
from tests.storage.conftest import Score, random_sums

Add = Callable[..., str]
STEPS, LATENTS = (20, 40), 40


def _reference(own: Sums, others: list[Sums], t: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and scores [N] by the formula, in plain numpy."""

    def row(part: Sums) -> int:
        return part.timesteps.tolist().index(t)

    mean = own.sum_fixed[row(own)] / FIXED_POINT / own.n_rows[row(own)]
    other = np.zeros_like(mean)
    if others:
        total = sum(part.sum_fixed[row(part)] for part in others)
        other = total / FIXED_POINT / sum(int(part.n_rows[row(part)]) for part in others)
    return mean, mean / (mean.sum() + 1e-8) - other / (other.sum() + 1e-8)


@pytest.fixture
def scored(workspace: Workspace, score: Score) -> dict[str, dict[str, Sums]]:
    sums = {
        concept: {sae: random_sums(seed * 10 + i, STEPS, LATENTS) for i, sae in enumerate(("sae_a", "sae_b"))}
        for seed, concept in enumerate(("ink", "oil", "it's"))
    }
    for concept, parts in sums.items():
        score(concept, parts)
    score("cat", {"sae_a": random_sums(99, STEPS, LATENTS)}, domain="object")
    score("ink", {"sae_a": random_sums(98, STEPS, LATENTS)}, protocol="q")
    return sums


def test_views_are_as_described(workspace: Workspace, score: Score) -> None:
    for _ in range(2):
        with connect(workspace) as connection:
            views = connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal"
            )
            assert {name for (name,) in views.fetchall()} == set(COLUMNS)
            for view, columns in COLUMNS.items():
                found = [row[:2] for row in connection.execute(f"DESCRIBE {view}").fetchall()]
                assert found == [(column.name, column.type) for column in columns], view
        # And again with files behind them, which must give the same types.
        score("ink", {"sae_a": random_sums(1)})
        for stage, name, schema in (
            ("prompts", "prompts", PROMPTS),
            ("images", "images", IMAGES),
            ("judgements", "judgements", JUDGEMENTS),
        ):
            _with_table(workspace, stage, name, table([], schema))
        _with_table(workspace, "evaluation", "metrics", table([], METRICS))


def _with_table(workspace: Workspace, stage: str, name: str, content: Any) -> str:
    made = artifact_id(stage, 1, {"rows": content.num_rows})
    write_table(workspace.folder(made) / f"{name}.parquet", content)
    workspace.commit(made, config={}, inputs={}, summary={}, seconds=0)
    return made


def test_the_view_statistics_has_the_sums_of_each_latent(
    workspace: Workspace, scored: dict[str, dict[str, Sums]]
) -> None:
    sums = scored["it's"]["sae_b"]
    with connect(workspace) as connection:
        (count,) = connection.execute("SELECT count(*) FROM statistics").fetchall()[0]
        row = connection.execute(
            "SELECT * FROM statistics WHERE concept = ? AND sae_id = 'sae_b' AND timestep = 40 AND latent = 3",
            ["it's"],
        ).fetchall()[0]
    assert count == 8 * len(STEPS) * LATENTS
    assert row[1:9] == ("sae_b", "unet.mid_block", "p", "style", "it's", "conditional", 40, 3)
    assert row[9] == sums.fires[1, 3] and row[10] == sums.image_fires[1, 3]
    assert row[11:14] == (sums.sum_fixed[1, 3] / FIXED_POINT, sums.sumsq_fixed[1, 3] / FIXED_POINT, sums.max[1, 3])
    assert row[14:] == (sums.n_rows[1], sums.n_images[1], sums.sum_fixed[1, 3] / FIXED_POINT / sums.n_rows[1])


@pytest.mark.parametrize("concept", ["ink", "oil", "it's"])
@pytest.mark.parametrize("sae", ["sae_a", "sae_b"])
def test_scores_are_the_formula(
    workspace: Workspace, scored: dict[str, dict[str, Sums]], concept: str, sae: str
) -> None:
    query = """
        SELECT mean, score, share - share_other FROM scores
        WHERE sae_id = ? AND protocol = 'p' AND domain = 'style' AND concept = ? AND timestep = ? ORDER BY latent
    """
    others = [parts[sae] for name, parts in scored.items() if name != concept]
    with connect(workspace) as connection:
        for t in STEPS:
            found = np.array(connection.execute(query, [sae, concept, t]).fetchall())
            mean, score = _reference(scored[concept][sae], others, t)
            np.testing.assert_allclose(found[:, 0], mean, rtol=1e-12)
            np.testing.assert_allclose(found[:, 1], score, rtol=1e-9, atol=1e-12)
            assert np.array_equal(found[:, 1], found[:, 2])


def test_scores_are_those_of_the_library(workspace: Workspace, scored: dict[str, dict[str, Sums]]) -> None:
    """The formula is written twice, in SQL and in torch."""
    sums = [scored[concept]["sae_a"] for concept in sorted(scored)]
    fixed, rows = (np.stack([getattr(s, name) for s in sums]).astype(np.int64) for name in ("sum_fixed", "n_rows"))
    expected = scoring.scores(torch.from_numpy(fixed), torch.from_numpy(rows)).numpy()
    query = """
        SELECT concept, timestep, latent, score FROM scores
        WHERE sae_id = 'sae_a' AND protocol = 'p' AND domain = 'style'
    """
    with connect(workspace) as connection:
        found = {tuple(row[:3]): row[3] for row in connection.execute(query).fetchall()}
    keys = [(c, int(t), n) for c in sorted(scored) for t in sums[0].timesteps for n in range(LATENTS)]
    np.testing.assert_allclose([found[key] for key in keys], expected.flatten(), rtol=1e-9, atol=1e-12)


def test_scores_by_latent_are_the_scores(
    workspace: Workspace, scored: dict[str, dict[str, Sums]], score: Score
) -> None:
    # A concept scored anew: its former rows are in no sum.
    score("ink", {"sae_a": random_sums(7, STEPS, LATENTS)}, version=2)
    with connect(workspace) as connection:
        both = [
            connection.execute(f"SELECT * FROM {view} WHERE latent IN (0, 3) ORDER BY ALL").fetchall()
            for view in ("scores", "scores_by_latent")
        ]
        one = "SELECT * FROM scores_by_latent WHERE latent = 3 AND sae_id = 'sae_a' AND concept = 'oil' ORDER BY ALL"
        assert set(connection.execute(one).fetchall()) < set(both[0])
    assert len(both[0]) > 20 and both[0] == both[1]


def test_a_lone_concept_has_no_other(workspace: Workspace, scored: dict[str, dict[str, Sums]]) -> None:
    with connect(workspace) as connection:
        query = """
            SELECT mean_other, share_other, score FROM scores
            WHERE domain = 'object' AND timestep = 20 ORDER BY latent
        """
        found = np.array(connection.execute(query).fetchall())
    assert (found[:, :2] == 0).all()
    np.testing.assert_allclose(found[:, 2], _reference(random_sums(99, STEPS, LATENTS), [], 20)[1], rtol=1e-9)


def test_a_silent_sae_scores_zero(workspace: Workspace, score: Score) -> None:
    for concept in ("ink", "oil"):
        score(concept, {"sae_a": random_sums(1, scale=0.0)})
    with connect(workspace) as connection:
        assert connection.execute("SELECT DISTINCT score FROM scores").fetchall() == [(0.0,)]


def test_timesteps_may_differ_between_concepts(workspace: Workspace, score: Score) -> None:
    ink, oil = random_sums(1, (20, 40)), random_sums(2, (40, 60))
    score("ink", {"sae_a": ink})
    score("oil", {"sae_a": oil})
    with connect(workspace) as connection:
        for t, others in ((20, []), (40, [oil])):
            query = "SELECT score FROM scores WHERE concept = 'ink' AND timestep = ? ORDER BY latent"
            found = [value for (value,) in connection.execute(query, [t]).fetchall()]
            np.testing.assert_allclose(found, _reference(ink, others, t)[1], rtol=1e-9, atol=1e-12)


def test_a_concept_scored_anew_counts_once(workspace: Workspace, score: Score) -> None:
    score("oil", {"sae_a": random_sums(1)})
    old = score("ink", {"sae_a": random_sums(2)})
    new = score("ink", {"sae_a": random_sums(3)}, version=2)
    later = new.model_copy(update={"created": "2999-01-01T00:00:00+00:00"})
    write_sealed(workspace.folder(new.id) / "manifest.json", later.model_dump(mode="json"))
    with connect(workspace) as connection:
        ids = connection.execute("SELECT DISTINCT score_id FROM scores WHERE concept = 'ink'").fetchall()
        kept = connection.execute("SELECT DISTINCT score_id FROM statistics WHERE concept = 'ink'").fetchall()
        other = connection.execute(
            "SELECT mean_other FROM scores WHERE concept = 'oil' AND timestep = 20 ORDER BY latent"
        )
        found = [value for (value,) in other.fetchall()]
    assert ids == [(new.id,)] and {i for (i,) in kept} == {old.id, new.id}
    sums = random_sums(3)
    np.testing.assert_allclose(found, sums.sum_fixed[1] / FIXED_POINT / sums.n_rows[1], rtol=1e-12)


def test_top_latents_are_ranked_by_score(workspace: Workspace, scored: dict[str, dict[str, Sums]]) -> None:
    with connect(workspace) as connection:
        rows = connection.execute(
            "SELECT rank, latent, score FROM top_latents "
            "WHERE concept = 'oil' AND sae_id = 'sae_a' AND timestep = 40 ORDER BY rank"
        ).fetchall()
        (most,) = connection.execute("SELECT max(rank) FROM top_latents").fetchall()[0]
    _, score = _reference(scored["oil"]["sae_a"], [scored[c]["sae_a"] for c in ("ink", "it's")], 40)
    expected = sorted(range(LATENTS), key=lambda i: (-round(score[i], 12), i))[:32]
    assert [rank for rank, _, _ in rows] == list(range(1, 33)) and most == 32
    assert [latent for _, latent, _ in rows] == expected


def test_ties_go_to_the_lower_latent(workspace: Workspace, score: Score) -> None:
    score("ink", {"sae_a": random_sums(1, (20,), latents=50, scale=0.0)})
    with connect(workspace) as connection:
        rows = connection.execute("SELECT latent FROM top_latents ORDER BY rank").fetchall()
    assert [latent for (latent,) in rows] == list(range(32))


@pytest.mark.parametrize(("former", "view"), [("features", "statistics_by_latent"), ("top_features", "top_latents")])
def test_former_names_of_views_answer(
    workspace: Workspace, scored: dict[str, dict[str, Sums]], former: str, view: str
) -> None:
    with connect(workspace) as connection:
        expected = connection.sql(f"FROM {view} ORDER BY ALL").to_arrow_table()
        found = connection.sql(f"FROM {former} ORDER BY ALL").to_arrow_table()
    assert found.num_rows and found.column_names.count("feature") == 1 and "latent" not in found.column_names
    assert found.rename_columns(expected.column_names).equals(expected)


def test_views_of_manifests_have_their_summaries(workspace: Workspace, add: Add) -> None:
    about = {"model_id": "m", "shards": 2, "rows": 10, "bytes": 99, "width": 4, "images": 5, "steps": 3}
    capture = add("capture", about | {"hookpoint": "a", "half": "conditional"})
    about = {
        "hookpoint": "a",
        "variant": "topk",
        "width": 4,
        "n_latents": 8,
        "k": None,
        "dictionary": "frozen",
        "fvu": 0.5,
        "l0": 2.0,
    }
    about |= {"dictionary": "frozen", "dead": 0.0, "rows": 10, "seconds": 1.5}
    # As written before SAEs said which latents are assigned; and since.
    sae = add("sae", about, {"capture": capture})
    with connect(workspace) as connection:
        assert connection.execute("SELECT * FROM captures").fetchall() == [
            (capture, "m", "a", 2, 10, 99, 4, 5, 3, "conditional")
        ]
        row = connection.execute("SELECT * FROM saes").fetchall()
        assert row == [(sae, capture, "a", "topk", 4, 8, None, "frozen", None, 0.5, 2.0, 0.0, 10, 1.5)]
    add("sae", about | {"variant": "assigned", "assigned": ["cat", "moon"]}, {"capture": capture})
    with connect(workspace) as connection:
        found = connection.execute("SELECT assigned, assigned[2] FROM saes ORDER BY assigned NULLS FIRST").fetchall()
        assert found == [(None, None), (["cat", "moon"], "moon")]


def test_views_of_tables_have_their_rows(workspace: Workspace) -> None:
    prompt = {"prompt_id": "a", "text": "a cat", "split": "train", "concepts": {"style": "ink"}}
    prompt |= {"seed": 7, "guidance": None, "source": "i2p"}
    made = _with_table(workspace, "prompts", "prompts", table([prompt], PROMPTS))
    metric = dict.fromkeys(c.name for c in METRICS.columns) | {"metric": "UA", "value": 0.9}
    evaluation = _with_table(workspace, "evaluation", "metrics", table([metric], METRICS))
    image = dict.fromkeys(c.name for c in IMAGES.columns) | {"key": "k", "asked": {"style": "ink"}, "removals": ["r"]}
    images = _with_table(workspace, "images", "images", table([image], IMAGES))
    judgement = {"image_set_id": "images_1", "key": "k", "prompt_id": "a", "image_index": 2, "domain": "style"}
    judgement |= {"asked": "ink", "judge": "canvas", "label": "oil", "score": 0.75}
    judged = _with_table(workspace, "judgements", "judgements", table([judgement], JUDGEMENTS))
    with connect(workspace) as connection:
        assert connection.execute("SELECT * FROM prompts").fetchall() == [
            (made, "a", "a cat", "train", {"style": "ink"}, 7, None, "i2p")
        ]
        assert connection.execute("SELECT evaluation_id, metric, value, seeds FROM metrics").fetchall() == [
            (evaluation, "UA", 0.9, None)
        ]
        found = connection.execute("SELECT image_set_id, key, asked['style'], removals FROM images").fetchall()
        assert found == [(images, "k", "ink", ["r"])]
        assert connection.execute("SELECT * FROM judgements").fetchall() == [
            (judged, "images_1", "k", "a", 2, "style", "ink", "canvas", "oil", 0.75)
        ]


@pytest.mark.parametrize("both", [False, True])
def test_a_table_of_an_earlier_version_of_its_stage_has_nulls_where_it_lacks_columns(
    workspace: Workspace, both: bool
) -> None:
    metric = dict.fromkeys(c.name for c in METRICS.columns) | {"metric": "UA", "value": 0.9}
    old = table([metric], METRICS).drop_columns(["judge", "seeds"])
    folder = workspace.folder(artifact_id("evaluation", 4, {"of": "old"}))
    write_table(folder / METRICS.file, old)
    workspace.commit(folder.name, config={}, inputs={}, summary={}, seconds=1.0)
    if both:
        folder = workspace.folder(artifact_id("evaluation", 5, {"of": "new"}))
        write_table(folder / METRICS.file, table([metric | {"judge": "canvas", "seeds": 3}], METRICS))
        workspace.commit(folder.name, config={}, inputs={}, summary={}, seconds=1.0)
    with connect(workspace) as connection:
        query = "SELECT evaluation_id, metric, value, judge, seeds FROM metrics ORDER BY judge NULLS FIRST"
        found = connection.execute(query).fetchall()
        assert [row[1:] for row in found] == [("UA", 0.9, None, None), ("UA", 0.9, "canvas", 3)][: 1 + both]
        assert len({row[0] for row in found}) == 1 + both
        kinds = connection.execute("SELECT typeof(judge), typeof(seeds) FROM metrics LIMIT 1").fetchall()
        assert kinds == [("VARCHAR", "INTEGER")]


def test_a_removal_is_outdated_when_concepts_change(workspace: Workspace, score: Score, add: Add) -> None:
    ids = [score(concept, {"sae_a": random_sums(1)}).id for concept in ("ink", "oil")]
    about: dict[str, Any] = {"domain": "style", "concept": "ink", "method": "saeuron", "reference_set": "r"}
    about |= {
        "settings": {"n": 2, "gamma": -1.0},
        "latents": 7,
        "latents_read": 2,
        "ua": 0.9,
        "ira": None,
        "cra": 1.0,
        "reference_ids": ids,
    }
    plain = add("removal", about | {"hookpoints": ["unet.mid_block"]})
    without = add("removal", about | {"method": "negative_prompt", "hookpoints": [], "reference_ids": []})
    elsewhere = add("removal", about | {"hookpoints": ["x"], "reference_ids": ["score_v1_" + "0" * 20]})

    def outdated() -> dict[str, bool]:
        with connect(workspace) as connection:
            return dict(connection.execute("SELECT removal_id, outdated FROM removals").fetchall())

    assert outdated() == {plain: False, without: False, elsewhere: True}
    score("cat", {"sae_a": random_sums(1)}, domain="object")
    score("oil", {"sae_a": random_sums(1)}, protocol="q")
    score("wax", {"sae_b": random_sums(1)})
    assert outdated() == {plain: False, without: False, elsewhere: True}
    score("wood", {"sae_a": random_sums(1)})
    assert outdated() == {plain: True, without: False, elsewhere: True}
    with connect(workspace) as connection:
        row = connection.execute("SELECT * EXCLUDE removal_id FROM removals WHERE removal_id = ?", [plain]).fetchall()
    told = {"n": "2", "gamma": "-1.0"}
    assert row == [("style", "ink", "saeuron", told, None, "r", ["unet.mid_block"], 7, 2, 0.9, None, 1.0, True)]


def test_the_view_runs_has_the_records_of_runs(workspace: Workspace) -> None:
    run = {"run_id": "r1", "flow": "score", "state": "failed", "started": "2025-01-02T03:04:05+01:00", "finished": None}
    write_sealed(workspace.runs / "r1.json", run | {"made": 3, "cached": [], "failed": ["ink"], "message": "no room"})
    (workspace.runs / "r2.json").write_text("{")
    with connect(workspace) as connection:
        rows = connection.execute("SELECT * REPLACE (started::VARCHAR AS started) FROM runs").fetchall()
    assert rows == [("r1", None, "score", "failed", "2025-01-02 02:04:05", None, 3, 0, 1, "no room", None, None, None)]


def test_a_run_whose_process_is_dead_was_interrupted(workspace: Workspace) -> None:
    for name in ("dead", "alive"):
        write_sealed(workspace.runs / f"{name}.json", {"run_id": name, "state": "running"})
    with workspace.living("alive"), connect(workspace) as connection:
        rows = connection.execute("SELECT run_id, state FROM runs ORDER BY 1").fetchall()
    assert rows == [("alive", "running"), ("dead", "interrupted")]


def test_a_damaged_artifact_is_left_out(workspace: Workspace, scored: dict[str, dict[str, Sums]]) -> None:
    next(workspace.root.glob("artifacts/score/*/of sae_b/statistics.parquet")).write_bytes(b"short")
    with connect(workspace) as connection:
        (concepts,) = connection.execute("SELECT count(DISTINCT score_id) FROM statistics").fetchall()[0]
        assert left_out(connection) == len(workspace.problems()) == 1
    assert concepts == 4


def test_what_is_left_out_is_counted(workspace: Workspace, add: Add) -> None:
    add("score", {})
    broken = [workspace.manifest_path(add("score", {"n": n})) for n in range(2)]
    told: list[int] = []
    assert run_query(workspace, "SELECT 1", left_out=told.append).num_rows == 1 and not told
    for path in (*broken, workspace.runs / "r.json", workspace.root / "concepts" / "ink.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    assert run_query(workspace, "SELECT 1", left_out=told.append).num_rows == 1 and told == [4]


def test_a_moved_workspace_works(workspace: Workspace, scored: dict[str, dict[str, Sums]], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(workspace.root, moved)
    with connect(str(moved)) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM scores").fetchall() == [(True,)]
    with pytest.raises(NotAWorkspace):
        connect(workspace.root)


def test_the_connection_is_locked_down(workspace: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    frame = table([], PROMPTS)
    assert frame.num_rows == 0
    with connect(workspace) as connection:
        for sql in (
            f"SELECT * FROM read_csv('{secret}')",
            f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
            f"ATTACH '{tmp_path / 'x.duckdb'}'",
            "SELECT * FROM frame",
            "SET memory_limit = '99GB'",
            "SET enable_external_access = true",
            "RESET lock_configuration",
            "INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)
        limits = connection.execute("SELECT current_setting('threads'), current_setting('memory_limit')").fetchall()
    assert limits == [(2, "953.6 MiB")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["it's [1] * work", "secret.csv"]


def test_a_damaged_cell_is_named(workspace: Workspace, scored: dict[str, dict[str, Sums]]) -> None:
    """Of the right size: only reading tells."""
    path = next(workspace.root.glob("artifacts/score/*/of sae_b/cells.parquet"))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ArtifactDamaged, match=re.escape(str(path))):
        connect(workspace)
    with pytest.raises(BadQuery, match=re.escape(path.parts[-3])):
        run_query(workspace, "SELECT 1")
