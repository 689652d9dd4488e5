"""`saeuron sae explain`: from the job to the view `explanations` and what is printed."""

import pathlib

import numpy as np
import pytest
import torch

from flows.run import Run
from flows.sae.explain import explain_job, figures, lines
from saeuron import capturing
from saeuron.config import CaptureConfig
from saeuron.judges import Judgement
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.explanations import explain as explained
from storage import Workspace, connect
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.engine.judge import DomainJudge
from tasks.registry import runs
from tasks.sae.explain import ExplainConfig, explain, shown
from tasks.sae.prove import images
from tests.sae_workspace import HOOKPOINTS, build, directly

IMAGES = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: pathlib.Path) -> tuple[Workspace, str, str]:
    """(workspace, the SAE, its explanation), made without Prefect; nobody judges."""
    workspace = build(tmp_path_factory.mktemp("explained") / "workspace", tiny_model_folder)
    run, sae = directly(workspace)
    return workspace, sae.id, explain.fn(explain_job(run, sae, IMAGES)).id


def test_every_latent_has_the_rule_of_the_activations_captured_by_hand(made: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, explanation = made
    config, sae = ExplainConfig(images=IMAGES), SAE.load(workspace.folder(sae_id))
    settings = runs.remembered(workspace).model
    asked, strengths, coordinates = {}, {}, {}
    for split in ("validation", "test"):
        prompts = prompt_sets.read(workspace, workspace.manifest(explanation).inputs["prompts"])
        requests = images(prompts, split, config)
        read = capturing.capture(
            model.pipeline(settings, "cpu"),
            requests,
            [HOOKPOINTS[0]],
            settings,
            CaptureConfig(seed=config.seed, dtype="bfloat16"),
        )
        found, neurons = [], []
        for _, _, arrays, _ in read:
            rows = torch.from_numpy(arrays[HOOKPOINTS[0]].astype(np.uint16)).view(torch.bfloat16).float()
            found.append(sae.encode(rows).amax(1).mean(0))
            moved = rows - sae.b_dec
            neurons.append(torch.cat([moved.amax(1).mean(0), -moved.amin(1).mean(0)]))
        coordinates[split] = torch.stack(neurons)
        strengths[split], asked[split] = torch.stack(found), [r.prompt.concepts for r in requests]
    by_hand = explained(strengths["validation"], asked["validation"], strengths["test"], asked["test"])
    with connect(workspace) as views:
        rows = views.execute(
            "select latent, rule, f1, images from explanations where kind = 'trained' order by latent"
        ).fetchall()
        controls = views.execute("select distinct kind, sae_id = ? from explanations", [sae_id]).fetchall()
        raw = views.execute("select rule, f1 from explanations where kind = 'neurons' order by latent").fetchall()
    assert sorted(controls) == [("frozen", False), ("neurons", None), ("trained", True), ("untrained", False)]
    assert [row[0] for row in rows] == list(range(sae.W_dec.shape[0])) and {row[3] for row in rows} == {IMAGES}
    # Captured rows are rounded, so a latent at its threshold may fall on the other side.
    same = [row[1:3] == (e.rule.words if e.rule else None, e.f1) for row, e in zip(rows, by_hand, strict=True)]
    assert sum(same) >= 0.8 * len(same)
    of_neurons = explained(coordinates["validation"], asked["validation"], coordinates["test"], asked["test"])
    same = [row == (e.rule.words if e.rule else None, e.f1) for row, e in zip(raw, of_neurons, strict=True)]
    assert len(raw) == 2 * sae.W_dec.shape[1] and sum(same) >= 0.8 * len(same)


def test_the_text_has_the_control_and_fits_the_terminal(made: tuple[Workspace, str, str]) -> None:
    workspace, _, explanation = made
    found = figures(workspace, explanation)
    assert [row["kind"] for row in found] == ["trained", "frozen", "untrained", "neurons"]
    assert set(found[0]["named"]) == {"object", "style"}
    assert all(0 <= row[name] <= 1 for row in found for name in ("explained", "good", "confident", "shuffled"))
    text = "\n".join(lines(workspace, explanation, found)).splitlines()
    assert all(any(line.startswith(kind) for line in text) for kind in ("frozen", "untrained", "neurons"))
    assert sum("controls: frozen " in line and ", neurons " in line for line in text) == 2
    assert max(map(len, text[1:])) <= 80


def test_a_judge_says_what_an_image_shows(made: tuple[Workspace, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, sae_id, explanation = made
    by = DomainJudge(spec="fake", id="fake", labels=("dots", "neon"))
    monkeypatch.setattr(DomainJudge, "look", lambda self, domain, pictures, device: [Judgement("dots", 0.9)] * 2)
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    job = explain_job(run, workspace.manifest(sae_id), IMAGES)
    judged = job.model_copy(update={"judges": {"style": by}})
    prompts = prompt_sets.read(workspace, job.prompts_id)
    requests = images(prompts, "test", ExplainConfig(images=2))
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    objects = [r.prompt.concepts["object"] for r in requests]
    assert shown(judged, requests, pictures) == [{"object": o, "style": "dots"} for o in objects]
    assert shown(job, requests, pictures) == [r.prompt.concepts for r in requests]
    assert job.id == explanation != judged.id


def test_an_sae_from_elsewhere_has_no_control_of_its_own(made: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, _ = made
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    foreign = workspace.manifest(sae_id).model_copy(update={"inputs": {}})
    assert explain_job(run, foreign, 4).controls == {}
