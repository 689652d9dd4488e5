"""`saeuron sae prove`: an SAE beside its controls, from the job to the view `dictionary`."""

import pathlib
import re

import numpy as np
import pytest
import torch

from flows.run import Run
from flows.sae.prove import figures, lines, proof_job
from flows.sae.report import diagnosis_job
from saeuron import capturing
from saeuron.config import CaptureConfig
from saeuron.errors import BadPrompts
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis.detection import detections
from storage import Workspace, connect
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.registry import runs
from tasks.sae.naming import naming
from tasks.sae.page import Diagnosis, write_page
from tasks.sae.prove import ProofConfig, images, prove
from tasks.sae.report import diagnose
from tests.sae_workspace import HOOKPOINTS, build, directly, explorer

IMAGES = 8


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: pathlib.Path) -> tuple[Workspace, str, str]:
    """(workspace, the SAE, its proof), made without Prefect."""
    workspace = build(tmp_path_factory.mktemp("proved") / "workspace", tiny_model_folder)
    run, sae = directly(workspace)
    return workspace, sae.id, prove.fn(proof_job(run, sae, IMAGES)).id


def test_every_kind_has_a_row_for_every_concept(proved: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, proof = proved
    with connect(workspace) as views:
        rows = views.execute("select kind, domain, concept, sae_id from dictionary where proof_id = ?", [proof])
        found = rows.fetchall()
        dead = views.execute("select sae_id, fvu from saes").fetchall()
    kinds = ("trained", "untrained", "frozen", "neurons", "supervised")
    concepts = {("style", "neon"), ("style", "dots"), ("object", "cat"), ("object", "moon")}
    assert {(k, d, c) for k, d, c, _ in found} == {(k, *c) for k in kinds for c in concepts} and len(found) == 20
    saes = {k: i for k, _, _, i in found}
    assert saes["trained"] == sae_id and saes["neurons"] is None and saes["supervised"] is None
    assert len({saes["trained"], saes["untrained"], saes["frozen"]}) == 3 and saes["untrained"] in dict(dead)


def test_figures_are_those_of_the_activations_captured_by_hand(proved: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, proof = proved
    job = workspace.manifest(proof)
    config, sae = ProofConfig(images=IMAGES), SAE.load(workspace.folder(sae_id))
    asked, strengths = {}, {}
    settings = runs.remembered(workspace).model
    for split in ("validation", "test"):
        requests = images(prompt_sets.read(workspace, job.inputs["prompts"]), split, config)
        pipe = model.pipeline(settings, "cpu")
        read = capturing.capture(
            pipe, requests, [HOOKPOINTS[0]], settings, CaptureConfig(seed=config.seed, dtype="bfloat16")
        )
        found = []
        for _, _, arrays, _ in read:
            rows = torch.from_numpy(arrays[HOOKPOINTS[0]].astype(np.uint16)).view(torch.bfloat16).float()
            found.append(sae.encode(rows).amax(1).mean(0))
        strengths[split] = torch.stack(found)
        asked[split] = [r.prompt.concepts.get("object") for r in requests]
    expected = detections(strengths["validation"], asked["validation"], strengths["test"], asked["test"])
    with connect(workspace) as views:
        rows = views.execute(
            "select concept, auroc, positives, images from dictionary "
            "where kind = 'trained' and domain = 'object' order by concept"
        ).fetchall()
    assert [(c, p, i) for c, _, p, i in rows] == [(d.concept, d.positives, d.images) for d in expected]
    assert all(0 <= auroc <= 1 for _, auroc, _, _ in rows)


def test_the_table_names_the_control_and_fits_the_terminal(proved: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, proof = proved
    found = figures(workspace, proof)
    assert [r["kind"] for r in found[:5]] == ["supervised", "trained", "frozen", "untrained", "neurons"]
    text = "\n".join(lines(workspace.manifest(sae_id), found)).splitlines()
    table = [line for line in text if line.startswith(("style  ", "object  ", "domain"))]
    assert len(table) == 11 and max(map(len, table)) <= 80
    assert sum("the untrained one" in line for line in text) == 2


def test_means_are_those_that_sql_finds_and_concepts_stand_beside_the_untrained_ones(
    proved: tuple[Workspace, str, str],
) -> None:
    workspace, _, proof = proved
    found = naming(workspace, workspace.manifest(proof), lambda latent: f"/{latent}")
    with connect(workspace) as views:
        means = views.execute(
            "select domain, kind, avg(precision), avg(recall), avg(f1), avg(auroc), avg((f1 >= 0.9)::int), count(*) "
            "from dictionary where proof_id = ? group by all",
            [proof],
        ).fetchall()
        pairs = views.execute(
            "select t.domain, t.concept, t.latent, t.f1, u.f1 from dictionary t join dictionary u using "
            "(proof_id, domain, concept) where t.kind = 'trained' and u.kind = 'untrained' and proof_id = ? "
            "order by t.domain, t.f1 desc, t.concept",
            [proof],
        ).fetchall()
    mine = {(m.domain, m.kind): (m.precision, m.recall, m.f1, m.auroc, m.named, m.concepts) for m in found.means}
    assert len(mine) == 10 and mine.keys() == {row[:2] for row in means}
    for domain, kind, *figures_ in means:
        assert mine[domain, kind] == pytest.approx(figures_)
    assert [(c.domain, c.concept, c.latent, c.f1, c.untrained) for c in found.concepts] == pairs
    assert [c.href for c in found.concepts] == ["" if c.latent is None else f"/{c.latent}" for c in found.concepts]


def test_both_pages_show_them_and_without_a_proof_the_command(
    proved: tuple[Workspace, str, str], tmp_path: pathlib.Path
) -> None:
    workspace, sae_id, proof = proved
    found = naming(workspace, workspace.manifest(proof))
    run, sae = directly(workspace)
    made = diagnose.fn(diagnosis_job(run, sae, workspace.manifest(sae.inputs["capture"]), 4, 16))
    written = write_page(Diagnosis(workspace, made.id), tmp_path / "page.html").read_text()
    bare = next(m.id for m in workspace.artifacts("sae") if m.summary["hookpoint"] == HOOKPOINTS[1])
    with explorer(workspace) as client:
        shown, without = (client.get("/sae", params={"id": name}).text for name in (sae_id, bare))
    linked = {f"sae={sae_id}&amp;i={c.latent}" for c in found.concepts if c.latent is not None}
    assert linked and all(part in shown for part in linked)
    assert {f'href="#latent-{c.latent}"' for c in found.concepts if c.latent is not None} <= set(
        re.findall(r'href="#latent-[0-9]+"', written)
    )
    for text in (written, shown):
        assert all(f"<p>{said}.</p>" in text for said in found.sentences) and "saeuron sae prove" not in text
        for c in found.concepts:
            cells = [c.precision, c.recall, c.f1, c.untrained, c.auroc]
            row = "".join(f"<td>{100 * v:.1f}</td>" for v in cells if v is not None)
            assert row in text.replace("</td>\n<td>", "</td><td>")
    assert f"<code>saeuron sae prove {bare}</code>" in without


def test_better_is_said_only_where_it_is() -> None:
    class Fake:
        id, summary = "sae_v2_1", {"hookpoint": "unet.mid_block"}

    def row(kind: str, named: float) -> dict[str, object]:
        means = dict.fromkeys(("precision", "recall", "f1", "auroc"), 0.5)
        return {"kind": kind, "domain": "style", **means, "named": named, "concepts": 4, "images": 9}

    better = lines(Fake(), [row("trained", 0.75), row("untrained", 0.25)])  # type: ignore[arg-type]
    equal = lines(Fake(), [row("trained", 0.25), row("untrained", 0.25)])  # type: ignore[arg-type]
    assert "names 75 % of the concepts, more than the untrained one, 25 %" in better[-1]
    assert "names 25 % of the concepts, not more than the untrained one, 25 %" in equal[-1]


def test_images_spread_over_the_combinations_of_concepts() -> None:
    prompts = [Prompt(f"{s} {o} {i}", "test", {"style": s, "object": o}) for s in "ab" for o in "xy" for i in range(3)]
    found = images(prompts, "test", ProofConfig(images=8))
    assert len({r.key for r in found}) == 8 and {r.index for r in found} == {0, 1}
    assert {tuple(r.prompt.concepts.values()) for r in found} == {(s, o) for s in "ab" for o in "xy"}
    assert found == images(prompts, "test", ProofConfig(images=8))
    with pytest.raises(BadPrompts, match="no train prompts"):
        images(prompts, "train", ProofConfig())


def test_an_sae_from_elsewhere_has_no_controls_of_its_own(proved: tuple[Workspace, str, str]) -> None:
    workspace, sae_id, _ = proved
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    foreign = workspace.manifest(sae_id).model_copy(update={"inputs": {}})
    assert proof_job(run, foreign, 4).controls == {}
