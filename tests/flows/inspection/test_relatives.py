"""`saeuron concept relatives`: from statistics to the view `relatives`, the table, the tree; mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from flows.inspection.relatives import asked, confusable, jobs, lines, made, template_lines, templates, told
from saeuron.canvas.overlaps import overlaps
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.inspection.relatives import similarity
from storage import Workspace, connect
from storage.identity import artifact_id
from storage.statistics.sums import FIXED_POINT, Sums, write_statistics
from storage.tables import DAMAGE, table, write_table
from tasks.inspection.relatives import measured, relatives, scored
from tasks.registry import runs
from tests.end_to_end.process import run_here

OBJECTS = ("circle", "square", "ring", "cat", "moon")
MEANS = np.random.default_rng(0).random((2, 5, 2, 6)) * (np.random.default_rng(1).random((2, 5, 2, 6)) > 0.3)
"""[trained or not, concept, step, latent]."""


def commit(workspace: Workspace, stage: str, **summary: object) -> str:
    name = artifact_id(stage, 1, summary)
    workspace.folder(name).mkdir(parents=True, exist_ok=True)
    if "harmed" in summary:
        write_table(workspace.folder(name) / DAMAGE.file, table(summary["harmed"], DAMAGE))
    workspace.commit(name, config={}, inputs={}, summary=summary, seconds=0)
    return name


def sums(means: np.ndarray) -> Sums:
    """Statistics with these means, [T, N]."""
    ones = np.ones(means.shape)
    return Sums(
        timesteps=np.array([40, 20], np.int32),
        fires=ones.astype(np.uint64),
        image_fires=ones.astype(np.uint32),
        sum_fixed=np.rint(means * 16 * FIXED_POINT).astype(np.int64),
        sumsq_fixed=ones.astype(np.int64),
        max=means.astype(np.float32),
        n_rows=np.array([16, 16], np.uint64),
        n_images=np.array([4, 4], np.uint32),
    )


def score(workspace: Workspace, concept: str, saes: dict[str, np.ndarray], protocol: str = "p") -> None:
    name = artifact_id("score", 1, {"concept": concept, "protocol": protocol})
    about = []
    for sae, means in saes.items():
        write_statistics(workspace.folder(name) / sae, sums(means))
        about.append({"sae_id": sae, "hookpoint": "unet.mid_block", "folder": sae, "n_images": 4})
    summary = {"domain": "object", "concept": concept, "protocol": protocol, "model_id": "m", "half": "conditional"}
    workspace.commit(name, config={}, inputs={}, summary=summary | {"saes": about}, seconds=0)


def damage(concept: str, harmed: str, loss: float, domain: str = "object") -> dict[str, object]:
    about = {"removal_id": "r", "concept": concept, "method": "saeuron", "harmed": harmed, "domain": domain}
    return about | {
        "before": 1.0, "after": 1 - loss, "loss": loss, "low": loss - 0.1, "high": loss + 0.1, "certain": False,
        "n": 12, "n_prompts": 6,
    }  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Five objects, scored by an SAE and its untrained control; the removal of circle and of ring was measured."""
    opened = Workspace.open(tmp_path_factory.mktemp("related") / "w")
    domain = {"hookpoints": ["unet.mid_block"], "judge": "none"}
    domains = {"object": {"concepts": OBJECTS, **domain}, "style": {"concepts": ["neon", "dots"], **domain}}
    config = {"domains": domains, "prompts": {"templates": {"train": ["A {object} in {style} style."]}}}
    runs.remember(opened, RunConfig.model_validate({**config, "model": {"spec": "canvas20"}}))
    saes = [
        commit(opened, "sae", hookpoint="unet.mid_block", dictionary=kind, n_latents=6)
        for kind in ("trained", "untrained")
    ]
    for i, concept in enumerate(OBJECTS):
        score(opened, concept, {sae: MEANS[k, i] for k, sae in enumerate(saes)})
    # Of another model: not to be mixed with these.
    about = {"domain": "object", "method": "saeuron"}
    lost = [damage("circle", "square", 0.5), damage("circle", "cat", -0.1), damage("circle", "neon", 0.9, "style")]
    commit(opened, "evaluation", concept="circle", harmed=lost, **about)
    commit(opened, "evaluation", concept="ring", harmed=[damage("ring", "circle", 0.25)], **about)
    commit(opened, "evaluation", concept="moon", harmed=[], **{**about, "method": "uce"})
    return opened


@pytest.fixture(scope="module")
def artifact(workspace: Workspace) -> str:
    [job] = jobs(workspace, runs.remembered(workspace), ["object"], "saeuron")
    assert not made([job], workspace)
    return relatives.fn(job).id


def test_the_view_holds_the_formula_of_the_statistics_beside_templates_and_damage(
    workspace: Workspace, artifact: str
) -> None:
    with connect(workspace) as views:
        rows = views.execute("select a, b, place, similarity, untrained, iou, ira_loss, n from relatives").fetchall()
    exact = np.rint(MEANS * 16 * FIXED_POINT) / (16 * FIXED_POINT)
    trained, untrained = (similarity([exact[k, :, 0], exact[k, :, 1]]) for k in (0, 1))
    iou = overlaps(OBJECTS)
    assert len(rows) == 20 and {row[:2] for row in rows} == {(a, b) for a in OBJECTS for b in OBJECTS if a != b}
    for a, b, place, similar, control, overlap, loss, n in rows:
        i, k = OBJECTS.index(a), OBJECTS.index(b)
        assert (similar, control, overlap) == pytest.approx((trained[i, k], untrained[i, k], iou[i, k]), abs=1e-9)
        assert place == 1 + sum(trained[i, j] > trained[i, k] for j in range(5) if j != i)
        wanted = {("circle", "square"): 0.5, ("circle", "cat"): -0.1, ("ring", "circle"): 0.25}.get((a, b))
        assert (loss, n) == (wanted, None if wanted is None else 12)
    about = workspace.manifest(artifact).summary
    assert about["removed"] == ["circle", "ring"] and about["loss_chance"] == 0.75 and len(about["untrained"]) == 1
    assert None not in (about["iou_p"], about["iou_p_untrained"], about["loss_p"])


def test_a_concept_that_only_another_protocol_scored_is_left_out(tmp_path: Path, workspace: Workspace) -> None:
    found = scored(workspace, "object", OBJECTS)
    assert found.concepts == OBJECTS and len(found.saes) == len(found.untrained) == 1
    assert scored(workspace, "object", OBJECTS[1:]).concepts == OBJECTS[1:]
    assert scored(workspace, "style", ("neon", "dots")) == ((), {}, {})
    assert [*measured(workspace, "object", OBJECTS, "uce")] == ["moon"]
    other = Workspace.open(tmp_path / "w")
    sae = commit(other, "sae", hookpoint="unet.mid_block", dictionary="trained", n_latents=6)
    score(other, "cat", {sae: MEANS[0, 0]}, "old")
    score(other, "moon", {sae: MEANS[0, 1]}, "new")
    assert scored(other, "object", OBJECTS).concepts == ("moon",)


def test_the_text_has_three_relatives_the_tree_and_the_controls(workspace: Workspace, artifact: str) -> None:
    [job] = jobs(workspace, runs.remembered(workspace), ["object"], "saeuron")
    assert job.id == artifact and made([job], workspace)
    text = "\n".join(lines(told(workspace, job))).splitlines()
    assert max(map(len, text)) <= 80
    assert sum(line.split()[0] in OBJECTS for line in text if line) == 10
    said = "\n".join(text)
    assert "permuted names p" in said and "an untrained SAE" in said and "by chance 75 %" in said
    one = "\n".join(lines(told(workspace, job), "circle")).splitlines()
    assert max(map(len, one)) <= 80
    assert any(line.split()[0] == "square" and " 50.0 " in line for line in one if line)


def test_the_command_prints_json_or_a_table(workspace: Workspace, artifact: str) -> None:
    done = run_here("concept", "relatives", "--domain", "object", "--json", "-w", workspace.root)
    assert done.code == 0 and json.loads(done.out)[0]["relatives"] == artifact
    done = run_here("concept", "relatives", "cat", "--method", "uce", "-w", workspace.root)
    assert done.code == 2 and "unknown method 'uce'" in done.err
    done = run_here("concept", "relatives", "-w", workspace.root)
    assert done.code == 2 and "style has 0 scored concepts; expected at least 3" in done.err
    done = run_here("concept", "relatives", "--templates", "-w", workspace.root)
    assert done.code == 0 and len(done.out.splitlines()) == 13 and "of 20 objects" in done.out


def test_the_objects_of_the_most_confusable_pairs(workspace: Workspace) -> None:
    config = runs.remembered(workspace)
    overlap = overlaps(OBJECTS)
    pairs = sorted(
        ((overlap[i, j], OBJECTS[i], OBJECTS[j]) for i in range(5) for j in range(i + 1, 5)), key=lambda p: -p[0]
    )
    assert confusable(config, 1) == [(*pairs[0][1:], pytest.approx(pairs[0][0]))]
    assert {p[:2] for p in confusable(config, 3)} == {(a, b) for _, a, b in pairs[:3]}
    other = config.model_copy(update={"model": config.model.model_copy(update={"spec": "elsewhere"})})
    with pytest.raises(ConfigError, match="the model is elsewhere and the configuration has 0 objects"):
        confusable(other, 1)


def test_templates_of_one_object_and_of_a_model_without_a_renderer(workspace: Workspace) -> None:
    config = runs.remembered(workspace)
    found = templates(config, "cat")
    assert len(found["pairs"]) == 10 and all("cat" in (pair["a"], pair["b"]) for pair in found["pairs"])
    assert max(map(len, "\n".join(template_lines(found)).splitlines())) <= 80
    with pytest.raises(UnknownName, match="unknown object 'cta': did you mean 'cat'"):
        templates(config, "cta")
    other = config.model_copy(update={"model": config.model.model_copy(update={"spec": "some/other"})})
    with pytest.raises(ConfigError, match="the model is some/other; expected canvas or canvas20"):
        templates(other, None)
    [job] = jobs(workspace, other, ["object"], "saeuron")
    assert job.templates == ""


def test_what_cannot_be_compared(workspace: Workspace) -> None:
    config = runs.remembered(workspace)
    assert asked(workspace, config, None, None) == ["object", "style"]
    assert asked(workspace, config, "moon", None) == asked(workspace, config, None, "object") == ["object"]
    with pytest.raises(UnknownName, match="unknown concept 'moo': did you mean 'moon'"):
        asked(workspace, config, "moo", None)
    with pytest.raises(UnknownName, match="unknown domain 'objects'"):
        asked(workspace, config, None, "objects")
    with pytest.raises(ConfigError, match="moon is of the domain object, not style"):
        asked(workspace, config, "moon", "style")
