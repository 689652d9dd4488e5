"""`saeuron blindspots`: from real pictures to the three views, the sheet and the text; mistakes."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.check import check_blindspots
from flows.inspection.blindspots import blindspots_job, lines, told
from flows.run import Run
from saeuron.blindspots.dictionary import DictionaryConfig, strengths
from saeuron.blindspots.features import features
from saeuron.blindspots.pairs import shifts
from saeuron.blindspots.samples import source
from saeuron.blindspots.unusual import usual
from saeuron.errors import BadPrompts, ConfigError
from saeuron.generation import generate
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.pages.pictures import picture_of
from saeuron.sae.autoencoder import SAE
from storage import Workspace, connect
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.inspection.blindspots import PICTURE, BlindspotsConfig, BlindspotsJob, blindspots
from tasks.registry import runs
from tests.end_to_end.process import run_here
from tests.sae_workspace import configuration
from tests.saeuron.blindspots.tiny_vit import save

SMALL = BlindspotsConfig(pairs=12, others=120, dictionary=DictionaryConfig(steps=20, batch=64, expansion=1))


def job_of(
    workspace: Workspace, real: str, seeing: str, removals: tuple[str, ...] = (), against: str = ""
) -> BlindspotsJob:
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    found = blindspots_job(run, real, "", seeing, removals, 12, against)
    return found.model_copy(update={"config": SMALL})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    found = Workspace.open(tmp_path_factory.mktemp("blind") / "w")
    runs.remember(found, configuration(tiny_model_folder))
    return found


@pytest.fixture(scope="module")
def rendered(workspace: Workspace) -> BlindspotsJob:
    job = job_of(workspace, "canvas", "canvas")
    blindspots.fn(job)
    return job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, rng = tmp_path_factory.mktemp("real"), np.random.default_rng(1)
    rows = ["file,text,object"]
    for i in range(10):
        Image.fromarray(rng.integers(256, size=(40, 60, 3), dtype=np.uint8)).save(found / f"{i}.png")
        rows.append(f"{i}.png,A {'cat' if i % 2 else 'moon'} number {i}.,{'cat' if i % 2 else 'moon'}")
    (found / "captions.csv").write_text("\n".join(rows) + "\n")
    return found


def test_the_views_are_what_the_pictures_give_by_hand(rendered: BlindspotsJob, workspace: Workspace) -> None:
    prompts = prompt_sets.read(workspace, rendered.prompts_id)
    seed, looked_at = SMALL.seed, source("canvas")
    requests = looked_at.requests(prompts, 12, seed)
    pipe = model.pipeline(rendered.model, "cpu")
    made = np.concatenate([p for _, p in generate(pipe, requests, rendered.model, seed)])
    found = looked_at.sample(requests, SMALL.others, (32, 32), seed)
    sae, seeing = SAE.load(workspace.folder(rendered.id)), features("canvas")
    moved = [strengths(sae, seeing.rows(each)).mean for each in shifts(made)]
    xi = moved[0]
    real = strengths(sae, seeing.rows(np.stack([p.pixels for p in found.real]))).mean
    with connect(workspace) as views:
        rows = views.execute(
            "select latent, real, generated, share, n_real, control from prevalence order by latent"
        ).fetchall()
        pairs = views.execute("select prompt_id, image_index, real, energy, nearest_energy from pairs").fetchall()
        kinds = dict(views.execute("select kind, count(*) from ood group by kind").fetchall())
        thresholds = views.execute("select count(distinct threshold), min(threshold) from ood").fetchone()
        odd = views.execute("select image, score, is_ood from ood where kind = 'new'").fetchall()
    assert len(rows) == 128 and {row[4] for row in rows} == {12}
    # Rounding may carry a number over its latent's threshold.
    for column, by_hand in ((1, real.mean(0)), (2, xi.mean(0))):
        assert np.isclose([row[column] for row in rows], by_hand, rtol=1e-5, atol=1e-6).mean() > 0.97
    for _, mean, theirs, share, _, control in rows:
        assert (share is None) == (mean + theirs == 0) and (share is None or share == theirs / (mean + theirs))
        assert control in ("alike", "rare", "suppressed", "exaggerated")
    assert [(r.prompt.id, r.index, p.name) for r, p in zip(requests, found.real, strict=True)] == [
        row[:3] for row in pairs
    ]
    for i, row in enumerate(pairs):
        assert row[3] == pytest.approx(min(((m[i] - real[i]) ** 2).sum() for m in moved), rel=0.02)
        assert row[4] == pytest.approx(min(((m[i] - other) ** 2).sum() for m in moved for other in real), rel=0.02)
    assert kinds == {"real": 12, "generated": 12, "new": 12}
    chosen, judged, new = (
        strengths(sae, seeing.rows(np.stack([p.pixels for p in side])))
        for side in (found.chosen, found.judged, found.control[1])
    )
    ordinary = usual(chosen, [p.labels for p in found.chosen], judged)
    assert thresholds == (1, pytest.approx(np.sort(ordinary.score(judged))[119], rel=1e-3))
    assert [name for name, _, _ in odd] == [p.name for p in found.control[1]]
    assert [score for _, score, _ in odd] == pytest.approx(ordinary.score(new), rel=0.02, abs=0.02)
    assert [is_ood for _, _, is_ood in odd] == [score > thresholds[1] for _, score, _ in odd]


def test_the_sheet_and_the_text(rendered: BlindspotsJob, workspace: Workspace) -> None:
    picture = picture_of((workspace.folder(rendered.id) / PICTURE).read_bytes())
    assert picture.shape[1] > 600 and picture.std() > 5
    found = told(workspace, rendered.id, rendered.places[PICTURE])
    assert found["picture"] == "pictures/canvas_blindspots.png"
    rows = [
        {"latent": i, "rule": "object is cat, crescent, hexagram or watercolour and more", "f1": 0.7, "named": i < 2}
        | {"share": 0.1, "low": 0.0, "high": 0.2, "control_share": 0.5, "verdict": "suppressed"}
        | {"beside": 0.12, "change": 0.9, "change_low": 0.8, "change_high": 1.0, "changed": "exaggerated"}
        for i in range(10)
    ]
    beside = found | {"rows": rows, "summary": {**found["summary"], "against": "canvas"}}
    changed = "\n".join(lines(beside))
    assert "drawn less often: nothing" in changed and "drawn more often: 10 latents, those with a name" in changed
    assert max(map(len, changed.splitlines())) <= 80 and "beside" in changed
    for shown in (found, found | {"rows": rows}):
        text = "\n".join(lines(shown)).splitlines()
        assert max(map(len, text)) <= 80
    assert any(line == "drawn too often: nothing" for line in text)
    assert any(line.startswith("drawn too rarely: 10 latents, those with a name first") for line in text)
    assert any("no name" in line for line in text)
    few = found | {"summary": {**found["summary"], "unusual": None, "held_out": 5}}
    said = " ".join(" ".join(lines(few)).split())
    assert "out of the ordinary: not judged; 5 real pictures held out, a threshold of 1 % takes 99: give more" in said


def test_a_folder_with_captions_and_a_vision_model_from_a_folder(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    save(tmp_path / "vit")
    job = job_of(workspace, str(folder), str(tmp_path / "vit"))
    assert not job.prompts_id and job.called == folder.name
    summary = blindspots.fn(job).summary
    assert (summary["real_pictures"], summary["generated_pictures"], summary["paired"]) == (10, 10, True)
    assert summary["latents"] == 16 and summary["new_pictures"] == 0 and summary["control_pictures"] == 5
    assert (summary["held_out"], summary["unusual"]) == (5, None)
    with connect(workspace) as views:
        judged = views.execute("select count(threshold), count(is_ood) from ood where blindspots_id = ?", [job.id])
        assert judged.fetchone() == (0, 0)
        names = views.execute("select real from pairs where blindspots_id = ?", [job.id]).fetchall()
    assert {name for (name,) in names} == {f"{i}.png" for i in range(10)}
    (folder / "captions.csv").rename(tmp_path / "captions.csv")
    try:
        bare = job_of(workspace, str(folder), "canvas")
        summary = blindspots.fn(bare).summary
        beside = bare.model_copy(update={"captions": str(tmp_path / "captions.csv")})
        assert source(beside.real, beside.captions).identity() == job.real_id
    finally:
        (tmp_path / "captions.csv").rename(folder / "captions.csv")
    assert not summary["paired"] and bare.prompts_id
    with connect(workspace) as views:
        none = views.execute("select count(energy), count(*) from pairs where blindspots_id = ?", [bare.id]).fetchone()
    assert none == (0, 10)


def test_a_removal_is_attached_and_counts(workspace: Workspace, rendered: BlindspotsJob, tmp_path: Path) -> None:
    removal = Removal("neon", "style", "negative_prompt", {}, (Call({"negative_prompt": "neon"}),))
    removal.save(tmp_path / "neon.safetensors")
    job = job_of(workspace, "canvas", "canvas", (str(tmp_path / "neon.safetensors"),), rendered.model.spec)
    assert job.id != rendered.id and job.removal_names == ("neon by negative_prompt",)
    assert job.places[PICTURE] == "pictures/canvas_without_neon_blindspots.png"
    summary = blindspots.fn(job).summary
    assert summary["against"] == job.against and summary["less"] is not None
    pipe = model.pipeline(job.model, "cpu")
    requests = source("canvas").requests(prompt_sets.read(workspace, job.prompts_id), 12, SMALL.seed)
    with removed(pipe, [removal]) as attached:
        made = np.concatenate([p for _, p in generate(pipe, requests, job.model, SMALL.seed, extra=attached.call)])
    plain = np.concatenate([p for _, p in generate(pipe, requests, job.model, SMALL.seed)])
    chosen = source("canvas").sample(requests, SMALL.others, (32, 32), SMALL.seed).chosen
    sae = SAE.load(workspace.folder(job.id))
    sides = [strengths(sae, features("canvas").rows(of)) for of in (made, plain, np.stack([p.pixels for p in chosen]))]
    by_hand = [side.mean.mean(0) for side in sides[:2]]
    ours, theirs = ((side.peak > 0.5 * sides[2].peak.max(0)).sum(0) for side in sides[:2])
    with connect(workspace) as views:
        rows = views.execute(
            "select generated, beside, change, changed from prevalence where blindspots_id = ? order by latent",
            [job.id],
        ).fetchall()
        alone = views.execute(
            "select count(beside), count(changed) from prevalence where blindspots_id = ?", [rendered.id]
        ).fetchone()
    for column, xi in enumerate(by_hand):
        assert np.isclose([row[column] for row in rows], xi, rtol=1e-5, atol=1e-6).mean() > 0.97
    assert not np.allclose(*by_hand) and alone == (0, 0)
    with np.errstate(invalid="ignore"):
        share = ours / (ours + theirs)
    found = np.array([np.nan if row[2] is None else row[2] for row in rows])
    assert np.isclose(found, share, equal_nan=True).mean() > 0.97 and np.isfinite(found).any()
    assert {row[3] for row in rows} <= {"alike", "rare", "suppressed", "exaggerated"}


def test_what_changes_the_result_changes_the_id(rendered: BlindspotsJob) -> None:
    changed = [{"real_id": "other"}, {"features_id": "other"}, {"removal_ids": ("a",)}, {"model_id": "other"}]
    changed.append({"against_id": "other"})
    assert len({rendered.id, *(rendered.model_copy(update=c).id for c in changed)}) == 6
    assert rendered.model_copy(update={"real": "./canvas", "called": "x"}).id == rendered.id


def test_mistakes_that_are_found_first(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.remembered(workspace)
    check_blindspots(config, "canvas", "", "canvas", 12)
    with pytest.raises(ConfigError, match="--captions is for a folder of pictures; canvas renders"):
        check_blindspots(config, "canvas", "captions.csv", "canvas", 12)
    with pytest.raises(ConfigError, match="is the model itself; name another one, or a removal with --remove"):
        check_blindspots(config, "canvas", "", "canvas", 12, config.model.spec)
    check_blindspots(config, "canvas", "", "canvas", 12, config.model.spec, True)
    check_blindspots(config, "canvas", "", "canvas", 12, "canvas")
    monkeypatch.setattr("saeuron.pipelines.loading.image_size", lambda spec: (64, 64) if spec == "canvas" else (32, 32))
    with pytest.raises(ConfigError, match=r"--against canvas draws pictures of 64 x 64 pixels, the model of 32 x 32"):
        check_blindspots(config, "canvas", "", "canvas", 12, "canvas")
    zebra = config.domains["object"].model_copy(update={"concepts": ("zebra", "moon")})
    other = config.model_copy(update={"domains": config.domains | {"object": zebra}})
    with pytest.raises(BadPrompts, match="the renderer 'canvas' cannot draw object 'zebra'"):
        check_blindspots(other, "canvas", "", "canvas", 12)


MISTAKES = {
    "source": (["--real", "canvs"], "unknown source of real pictures 'canvs': did you mean 'canvas'"),
    "folder": (["--real", "./none"], "no such folder: './none'; expected canvas or canvas20, or a folder of pictures"),
    "features": (["--real", "canvas", "--features", "cavas"], "unknown features 'cavas': did you mean 'canvas'"),
    "model": (["--real", "canvas", "--features", "./none"], "no such folder: './none'; expected FOLDER or HUB_ID"),
    "table": (
        ["--real", "canvas", "--captions", "none.csv"],
        "no such table: none.csv; expected a file with the columns",
    ),
    "against": (
        ["--real", "canvas", "--against", "./none"],
        "no such model: './none'; expected 'canvas' or 'canvas20'",
    ),
    "device": (["--real", "canvas", "--device", "gpu"], "device 'gpu' cannot be used here"),
    "few": (["--real", "canvas", "--pairs", "3"], "--pairs 3: expected a value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_on_the_command_line(name: str, tmp_path: Path) -> None:
    words, said = MISTAKES[name]
    done = run_here("blindspots", *words, "-w", tmp_path / "w")
    assert done.code == 2 and said in " ".join(done.err.split()), done.err
    assert not (tmp_path / "w" / "artifacts").exists() and not (tmp_path / "w" / "run.json").exists()


def test_an_empty_folder_and_an_unknown_removal(workspace: Workspace, tmp_path: Path) -> None:
    done = run_here("blindspots", "--real", tmp_path, "-w", workspace.root)
    assert done.code == 2 and "holds no picture; expected files that end in .png" in done.complaint
    done = run_here("blindspots", "--real", "canvas", "--remove", "noen", "-w", workspace.root)
    assert done.code == 2 and "unknown removal 'noen'" in done.complaint


def test_the_command_says_what_was_made_where_and_what_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.inspection.blindspots.BlindspotsConfig", lambda pairs: SMALL)
    words = ("blindspots", "--real", "canvas", "--pairs", "12", "-w", workspace.root)
    done = run_here(*words)
    assert done.code == 0, done.err
    shown = done.out.splitlines()
    assert shown[-2] == f"picture: {workspace.root}/pictures/canvas_blindspots.png"
    assert (
        shown[-1].startswith("next: saeuron sql ") and (workspace.root / "pictures" / "canvas_blindspots.png").exists()
    )
    summary = json.loads(run_here(*words, "--json").out)["summary"]
    assert (summary["real"], summary["against"], summary["less"]) == ("canvas", "", None)


def test_a_removal_is_compared_with_the_model_itself_unless_another_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def flow(*arguments: object) -> dict[str, object]:
        asked.append(str(arguments[-1]))
        return dict.fromkeys(("blindspots", "summary", "rows", "picture"))

    monkeypatch.setattr("flows.inspection.blindspots.blindspots_flow", flow)
    monkeypatch.setattr("flows.display.on_prefect", nullcontext)
    Removal("neon", "style", "negative_prompt", {}, (Call({"negative_prompt": "neon"}),)).save(
        tmp_path / "a.safetensors"
    )
    words = ("blindspots", "--real", "canvas", "--json", "-w", workspace.root)
    without = ("--remove", tmp_path / "a.safetensors")
    for more in ((), without, (*without, "--against", "canvas"), ("--against", "canvas")):
        assert run_here(*words, *more).code == 0
    assert asked == ["", runs.remembered(workspace).model.spec, "canvas", "canvas"]
