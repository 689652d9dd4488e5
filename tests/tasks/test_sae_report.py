"""What is written of an SAE that is looked at, and the page that is made of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import BadPrompts, WidthMismatch
from saeuron.generation import generate
from saeuron.hooks import attached, to_rows
from saeuron.pipelines.loading import identity
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.norms import Norm, grouped
from saeuron.scoring import scores
from storage import Workspace
from storage.catalog.diagnosis import MAPS
from storage.dense import shards
from storage.files import read_json
from storage.identity import artifact_id
from storage.tables import read_table, write_table
from storage.verify import damage
from tasks import score as scoring
from tasks.engine import model as models
from tasks.prompts import PromptsJob, prompts
from tasks.registry import runs
from tasks.sae.page import Diagnosis, concept_scores, newest, protocol, specific, write_page, write_sheet
from tasks.sae.report import DiagnosisJob, StabilityJob, diagnose, images, stability
from tests.sae_workspace import HOOKPOINTS, TEMPLATES, build, configuration

LOOK = DiagnosisConfig(images=6, rows=60, examples=3, loss_images=2)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """A workspace whose first SAE was looked at; leave it as you found it."""
    workspace = build(tmp_path_factory.mktemp("looked") / "workspace", tiny_model_folder)
    diagnose.fn(job_of(workspace))
    return workspace


def sae_at(workspace: Workspace, hookpoint: str = HOOKPOINTS[0]) -> str:
    """The one that was trained here."""
    return next(m.id for m in workspace.artifacts("sae") if m.summary["hookpoint"] == hookpoint and m.inputs)


def job_of(workspace: Workspace, hookpoint: str = HOOKPOINTS[0], **fields: object) -> DiagnosisJob:
    config = runs.remembered(workspace)
    known = {
        "workspace": workspace.root,
        "model": config.model,
        "model_id": identity(config.model.spec),
        "config": LOOK,
        "sae_id": sae_at(workspace, hookpoint),
        "prompts_id": workspace.artifacts("prompts")[0].id,
    }
    return DiagnosisJob.model_validate({**known, **fields})


def put(workspace: Workspace, sae: SAE, name: str) -> str:
    """An SAE from elsewhere, as an artifact."""
    found = artifact_id("sae", 2, {"name": name})
    sae.save(workspace.folder(found))
    summary = {"hookpoint": sae.info.hookpoint, "variant": sae.info.variant}
    workspace.commit(found, config={}, inputs={}, summary=summary, seconds=0.0)
    return found


class TestImages:
    def test_are_of_test_prompts_of_every_combination(self, looked: Workspace) -> None:
        found = images(job_of(looked))
        assert len(found) == 6 and {r.prompt.split for r in found} == {"test"}
        assert len({tuple(sorted(r.prompt.concepts.items())) for r in found}) == 4
        assert len({r.key for r in found}) == 6
        assert images(job_of(looked)) == found
        other = images(job_of(looked, config=LOOK.model_copy(update={"seed": 5})))
        assert [r.key for r in other] != [r.key for r in found]

    def test_a_set_without_test_prompts(self, looked: Workspace) -> None:
        config = configuration(Path("canvas"))
        none = config.prompts.model_copy(update={"templates": {k: v for k, v in TEMPLATES.items() if k != "test"}})
        made = prompts.fn(PromptsJob(workspace=looked.root, config=none, domains=config.domains))
        with pytest.raises(BadPrompts, match="no test prompts"):
            images(job_of(looked, prompts_id=made.id))


class TestId:
    def test_is_of_what_the_result_depends_on(self, looked: Workspace) -> None:
        job = job_of(looked)
        assert job.id.startswith("diagnosis_v4_")
        assert job.model_copy(update={"workspace": Path("/elsewhere")}).id == job.id
        assert job_of(looked, model=job.model.model_copy(update={"spec": "/a/copy"})).id == job.id
        others = [
            job_of(looked, config=LOOK.model_copy(update={"rows": 61})),
            job_of(looked, HOOKPOINTS[1]),
            job_of(looked, model=ModelConfig(steps=3)),
            job_of(looked, model_id="another"),
            job_of(looked, prompts_id="another"),
            job_of(looked, device="cuda"),
        ]
        assert len({job.id, *(other.id for other in others)}) == 7

    def test_a_comparison_has_a_direction(self) -> None:
        one, two = (StabilityJob(workspace=Path("/here"), sae_id=a, against_id=b) for a, b in ("ab", "ba"))
        assert one.id != two.id


class TestDiagnosis:
    def test_is_made_once(self, looked: Workspace) -> None:
        again = diagnose.fn(job_of(looked))
        assert again.cached and again.summary["sae_id"] == sae_at(looked)
        assert again.summary["hookpoint"] == HOOKPOINTS[0]
        [file] = [f for f in looked.manifest(again.id).files if f.name == "images.tar"]
        assert file.bytes > 0 and not damage(looked, again.id, deep=True)

    def test_figures_are_those_of_the_activations(self, looked: Workspace) -> None:
        """Everything that the hookpoint gave is kept here, and counted in float64."""
        job = job_of(looked)
        sae, rows = SAE.load(looked.folder(job.sae_id)), {"conditional": [], "unconditional": []}
        pipe = models.pipeline(job.model, "cpu")

        def keep(step, output, source):
            for half, found in rows.items():
                found.append((step.timestep, to_rows(step.half(output, half))[: len(batch)].flatten(0, 1)))

        with attached(pipe, readers={HOOKPOINTS[0]: keep}):
            for batch in (images(job)[:4], images(job)[4:]):
                list(generate(pipe, batch, job.model, LOOK.seed))
        figures = read_json(job.folder / "diagnosis.json")
        mine = torch.cat([part for _, part in rows["conditional"]]).float()
        active = (sae.encode(mine) != 0).sum(1)
        norms = {n["latents"]: n for n in figures["norms"]}
        assert {m: n["rows"] for m, n in norms.items()} == {
            m: int((active == m).sum()) for m in active.unique().tolist()
        }
        for m, norm in norms.items():
            own = (mine - sae.b_dec)[active == m].norm(dim=1).mean()
            assert norm["expected"] == pytest.approx(float(own), rel=1e-4)
        steps = {(r["timestep"], r["half"]): r for r in read_table(job.folder / "steps.parquet").to_pylist()}
        assert set(steps) == {(t, half) for t in (999, 499) for half in rows}
        for half, found in rows.items():
            everything = torch.cat([x for _, x in found])
            f = sae.encode(everything)
            e = (everything.double() - sae.decode(f).double()).square().sum()
            variance = (everything.double() - everything.double().mean(0)).square().sum()
            assert figures["halves"][half]["fvu"] == pytest.approx(float(e / variance), rel=1e-4)
            assert figures["halves"][half]["rows"] == len(everything) == 6 * 2 * 64
            assert steps[499, half]["rows"] == 6 * 64
        f = sae.encode(torch.cat([x for _, x in rows["conditional"]])).double()
        latents = read_table(job.folder / "latents.parquet")
        np.testing.assert_allclose(latents["density"].to_numpy(), (f != 0).double().mean(0).numpy(), atol=2 / len(f))
        np.testing.assert_allclose(latents["mean"].to_numpy(), f.mean(0).numpy(), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(latents["maximum"].to_numpy(), f.amax(0).numpy(), rtol=1e-3, atol=1e-5)
        assert figures["dead"] == int((latents["density"].to_numpy() == 0).sum())
        assert latents["dead"].to_pylist() == [d == 0 for d in latents["density"].to_pylist()]
        assert latents["always_on"].to_pylist() == [d >= 0.9 for d in latents["density"].to_pylist()]

    def test_profiles_average_to_the_latents(self, looked: Workspace) -> None:
        folder = job_of(looked).folder
        latents, profiles = read_table(folder / "latents.parquet"), read_table(folder / "profiles.parquet")
        assert profiles["timestep"].to_pylist()[:4] == [999, 499, 999, 499]
        assert profiles["latent"].to_pylist()[:4] == [0, 0, 1, 1]
        for name in ("density", "mean"):
            by_latent = profiles[name].to_numpy().reshape(-1, 2).mean(1)
            np.testing.assert_allclose(by_latent, latents[name].to_numpy(), rtol=1e-9)
        largest = profiles["maximum"].to_numpy().reshape(-1, 2).max(1)
        np.testing.assert_array_equal(largest, latents["maximum"].to_numpy())

    def test_examples_are_images_that_are_kept(self, looked: Workspace) -> None:
        folder = job_of(looked).folder
        rows = read_table(folder / "examples.parquet").to_pylist()
        largest = read_table(folder / "latents.parquet")["maximum"].to_numpy()
        kept = {m.key for m in shards.read_manifest(folder / "images.tar").members}
        assert kept == {r.key for r in images(job_of(looked))}
        firing = {row["latent"] for row in rows}
        assert firing == set(np.flatnonzero(largest > 0).tolist())
        for latent in firing:
            mine = [r for r in rows if r["latent"] == latent]
            ranks = [r["rank"] for r in mine]
            assert ranks[:3] == [1, 2, 3][: len(ranks)] and set(ranks[3:]) <= {4, 5}
            assert [r["heat"] is None for r in mine] == [rank > 3 for rank in ranks]
            assert all(r["heat_clean"] is None for r in mine)  # two steps
            means = [r["mean"] for r in mine]
            assert means == sorted(means, reverse=True) and min(means) > 0
            assert max(r["value"] for r in mine) <= largest[latent] * (1 + 1e-6)
            for row in mine:
                assert f"{row['prompt_id']}_{row['image_index']:04d}" in kept
                if row["heat"] is None:
                    assert row["heat_noisy"] is None and row["heat_middle"] is None
                    continue
                # A third of one step is that step's map: of the one where it is largest, and of another.
                own, other = ("heat_noisy", "heat_middle") if row["timestep"] == 999 else ("heat_middle", "heat_noisy")
                assert row[own] == row["heat"] and max(row[other]) <= max(row["heat"])
                heat = np.frombuffer(row["heat"], np.uint8)
                assert len(heat) == 64 and heat.argmax() == row["position"]
                assert heat.max() == round(255 * row["value"] / largest[latent])

    @pytest.mark.parametrize(("steps", "kept"), [(1, 1), (2, 2), (4, 3)])
    def test_thirds_without_steps_are_null(self, looked: Workspace, steps: int, kept: int) -> None:
        sae = put(looked, SAE.load(looked.folder(sae_at(looked))), f"read at {steps} steps")
        job = job_of(looked, sae_id=sae, config=LOOK.model_copy(update={"images": 4}))
        made = diagnose.fn(job.model_copy(update={"model": job.model.model_copy(update={"steps": steps})}))
        rows = read_table(looked.folder(made.id) / "examples.parquet").to_pylist()
        for row in rows:
            there = [name for name in MAPS if row[name] is not None]
            assert there == (list(MAPS[: 1 + kept]) if row["rank"] <= 3 else [])
            assert all(len(row[name]) == 64 for name in there)
        assert any(any(row[name]) for row in rows for name in MAPS[1 : 1 + kept] if row["rank"] == 1)

    def test_a_text_encoder_has_no_thirds(self, looked: Workspace, tmp_path: Path) -> None:
        sae = SAE(SAEInfo("topk", 32, 16, 4, "text_encoder.encoder.layers.0", "topk"), seed=3)
        made = diagnose.fn(job_of(looked, sae_id=put(looked, sae, "text"), config=LOOK))
        rows = read_table(looked.folder(made.id) / "examples.parquet").to_pylist()
        assert any(row["heat"] for row in rows)
        assert {row[name] for row in rows for name in MAPS[1:]} == {None}
        text = write_page(Diagnosis(looked, made.id), tmp_path / "page.html").read_text()
        assert 'class="over"' in text and "third" not in text.split('<h2 id="latents">')[1]

    def test_a_sequence_is_laid_out_as_a_map(self, looked: Workspace) -> None:
        made = diagnose.fn(job_of(looked, HOOKPOINTS[1], config=LOOK.model_copy(update={"images": 4})))
        assert read_json(looked.folder(made.id) / "diagnosis.json")["grid"] == [4, 4]


class TestStability:
    def test_an_sae_in_another_order_is_as_stable_as_can_be(self, looked: Workspace) -> None:
        sae = SAE.load(looked.folder(sae_at(looked)))
        order = torch.randperm(sae.info.n_latents, generator=torch.Generator().manual_seed(0))
        tensors = {name: value[order] if name != "b_dec" else value for name, value in sae.state_dict().items()}
        other = put(looked, SAE.of(sae.info, tensors), "turned")
        made = stability.fn(StabilityJob(workspace=looked.root, sae_id=other, against_id=sae_at(looked)))
        table = read_table(looked.folder(made.id) / "stability.parquet")
        np.testing.assert_allclose(table["stability"].to_numpy(), 1, rtol=1e-6)
        assert table["counterpart"].to_pylist() == order.tolist()
        assert made.summary["stability"] == pytest.approx(1) and made.summary["encoder"] == pytest.approx(1)

    def test_encoders_are_compared_where_decoders_match(self, looked: Workspace) -> None:
        mine = SAE.load(looked.folder(sae_at(looked)))
        other = SAE(mine.info, seed=8).requires_grad_(False)
        against = put(looked, other, "other")
        made = stability.fn(StabilityJob(workspace=looked.root, sae_id=sae_at(looked), against_id=against))
        cosines = []
        for encoder, decoder in zip(mine.W_enc.double().numpy(), mine.W_dec.double().numpy(), strict=True):
            pairs = zip(other.W_dec.double().numpy(), other.W_enc.double().numpy(), strict=True)
            found = max(pairs, key=lambda pair: decoder @ pair[0] / np.linalg.norm(pair[0]))[1]
            cosines.append(encoder @ found / np.linalg.norm(encoder) / np.linalg.norm(found))
        assert made.summary["encoder"] == pytest.approx(np.mean(cosines), abs=1e-6)

    def test_another_width(self, looked: Workspace) -> None:
        job = StabilityJob(workspace=looked.root, sae_id=sae_at(looked), against_id=sae_at(looked, HOOKPOINTS[1]))
        with pytest.raises(WidthMismatch, match=r"has width 32, .* has 16; compare SAEs of one hookpoint"):
            stability.fn(job)


class TestScores:
    @pytest.fixture
    def expected(self, looked: Workspace) -> np.ndarray:
        """s by the library's own formula, [concepts, T, N]."""
        ids = {m.summary["concept"]: m.id for m in looked.artifacts("score")}
        totals = [scoring.read(looked, ids[concept], HOOKPOINTS[0]) for concept in ("neon", "dots")]
        # Stored ascending; shown from noise to image.
        sums = torch.from_numpy(np.stack([t.sum_fixed[::-1] for t in totals]))
        rows = torch.from_numpy(np.stack([t.n_rows[::-1].astype(np.int64) for t in totals]))
        return scores(sums, rows).numpy()

    def test_are_those_of_the_library(self, looked: Workspace, expected: np.ndarray) -> None:
        sae_id = sae_at(looked)
        found = concept_scores(looked, sae_id, protocol(looked, sae_id) or "", [3, 0, 7])
        assert list(found) == [3, 0, 7]
        for latent, each in found.items():
            assert [s.domain for s in each] == ["style", "style"]
            assert each[0].mean >= each[1].mean
            for s in each:
                c = ("neon", "dots").index(s.concept)
                assert list(s.timesteps) == [999, 499]
                np.testing.assert_allclose(s.scores, expected[c, :, latent], atol=1e-12)
                assert s.mean == pytest.approx(expected[c, :, latent].mean(), abs=1e-12)
                assert s.peak == (max(s.scores), (999, 499)[int(np.argmax(s.scores))])
                assert s.by_range == [s.scores[0], s.scores[1], None]

    def test_the_most_specific_latents_come_first(self, looked: Workspace, expected: np.ndarray) -> None:
        sae_id = sae_at(looked)
        found = specific(looked, sae_id, protocol(looked, sae_id) or "", 5)
        best = expected.mean(1).max(0)
        assert len(set(found)) == 5
        np.testing.assert_allclose(best[found], np.sort(best)[::-1][:5], atol=1e-12)

    def test_an_sae_that_was_never_scored(self, looked: Workspace) -> None:
        assert protocol(looked, sae_at(looked, HOOKPOINTS[1])) is None


class TestPage:
    @pytest.fixture
    def diagnosis(self, looked: Workspace) -> Diagnosis:
        return Diagnosis(looked, job_of(looked).id)

    def test_a_latent_is_all_that_the_tables_say(self, looked: Workspace, diagnosis: Diagnosis) -> None:
        shown = diagnosis.shown()[:2]
        first, second = diagnosis.describe(shown, near=True)
        assert [first.latent, second.latent] == shown and first.stability is None
        table = read_table(diagnosis.folder / "latents.parquet")
        assert first.density == table["density"][shown[0]].as_py()
        assert first.maximum == table["maximum"][shown[0]].as_py()
        assert [s.concept for s in first.scores] in (["neon", "dots"], ["dots", "neon"])
        best, shown_first = first.scores[0], [e for e in first.examples if e.heat is not None]
        asked = [e for e in shown_first if best.concept in e.prompt]
        assert first.agreement == (len(asked), len(shown_first))
        assert first.neighbours[0][0] == first.nearest
        assert first.neighbours[0][1] == pytest.approx(first.max_cosine, abs=1e-6)
        mine = [r for r in read_table(diagnosis.folder / "examples.parquet").to_pylist() if r["latent"] == shown[0]]
        assert [e.value for e in first.examples] == [r["value"] for r in mine]
        for example, row in zip(first.examples, mine, strict=True):
            assert example.row * 8 + example.column == row["position"]
            assert example.picture.shape == (32, 32, 3) and example.rank == row["rank"]
            assert bool(example.by_range) == (example.heat is not None)
            if example.heat is not None:
                assert [part.name for part in example.by_range] == ["noisy third", "middle third"]
                for part, name in zip(example.by_range, ("heat_noisy", "heat_middle"), strict=True):
                    assert part.heat.shape == (8, 8) and part.heat.tobytes() == row[name]
                assert example.heat.shape == (8, 8)
                assert example.heat[example.row, example.column] == example.heat.max()
            assert all(name in example.prompt for name in example.concepts.values()) and example.concepts
            assert "picture of a" in example.prompt or " in " in example.prompt

    def test_thirds_stand_under_the_largest(self, diagnosis: Diagnosis, tmp_path: Path) -> None:
        text = write_page(diagnosis, tmp_path / "page.html").read_text()
        parts = [p for latent in diagnosis.report().latents for e in latent.examples for p in e.by_range]
        assert parts and all(f'alt="{part.said}"' in text for part in parts)
        assert text.count('<div class="thirds">') == len(parts) / 2 and "clean third: " not in text

    def test_a_measurement_of_before_thirds_were_kept(self, diagnosis: Diagnosis, tmp_path: Path) -> None:
        shown = diagnosis.shown()[:3]
        now = diagnosis.pictured(shown)
        diagnosis.folder = Path(shutil.copytree(diagnosis.folder, tmp_path / "before"))
        table = read_table(diagnosis.folder / "examples.parquet")
        write_table(diagnosis.folder / "examples.parquet", table.drop_columns(list(MAPS[1:])))
        for latent, earlier in zip(now, diagnosis.pictured(shown), strict=True):
            assert latent.has_thirds and not earlier.has_thirds
            for example, other in zip(latent.examples, earlier.examples, strict=True):
                assert example.key == other.key and np.array_equal(example.heat, other.heat)

    def test_it_shows_every_latent_that_it_names(self, diagnosis: Diagnosis, tmp_path: Path) -> None:
        text = write_page(diagnosis, tmp_path / "page.html").read_text()
        lengths = text.split('<h2 id="norms">')[1].split("</table>")[0]
        groups = grouped([Norm(**n) for n in diagnosis.figures["norms"]])
        assert len(groups) > 1 and all(f">{label}</td><td>{n.rows}</td>" in lengths for label, n in groups)
        for latent in diagnosis.shown():
            assert f'href="#latent-{latent}"' in text and f'id="latent-{latent}"' in text
        assert diagnosis.sae_id in text and HOOKPOINTS[0] in text
        assert "Stability was not measured" in text

    def test_an_sae_from_elsewhere_that_was_never_scored(self, looked: Workspace, tmp_path: Path) -> None:
        sae = SAE(SAEInfo("jumprelu", 16, 20, 0, HOOKPOINTS[0]), seed=3)
        with torch.no_grad():
            sae.b_enc[4] = -1e9
            sae.threshold.fill_(0.05)
        foreign = put(looked, sae, "foreign")
        made = diagnose.fn(job_of(looked, sae_id=foreign, config=LOOK.model_copy(update={"images": 3})))
        against = stability.fn(StabilityJob(workspace=looked.root, sae_id=foreign, against_id=sae_at(looked)))
        diagnosis = Diagnosis(looked, made.id, against.id)
        assert diagnosis.against == sae_at(looked)
        largest = diagnosis.latents["maximum"]
        assert diagnosis.shown()[0] == int(largest.argmax()) and len(diagnosis.shown()) == 20
        text = write_page(diagnosis, tmp_path / "page.html").read_text()
        assert "was not scored yet" in text and f"{diagnosis.stability.mean():.3f}" in text
        assert "It never fires on these images" in text
        [dead] = diagnosis.describe([4])
        assert dead.density == 0 and not dead.examples and not dead.scores
        assert write_sheet(diagnosis, dead, tmp_path / "dead.png").stat().st_size > 1000

    def test_the_newest_is_taken(self, looked: Workspace) -> None:
        found = newest(looked, "diagnosis", sae_id=sae_at(looked))
        assert found is not None and found.id == job_of(looked).id
        assert newest(looked, "diagnosis", sae_id="none") is None
