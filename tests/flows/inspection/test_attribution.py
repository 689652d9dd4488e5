"""`saeuron latent show --attribution`: from the job to the views and the text; what has no words."""

from html import unescape
from pathlib import Path

import pytest

from flows.inspection.attribute import attribution_job, check, lines, told
from flows.run import Run
from saeuron.errors import ConfigError
from saeuron.generation import Request
from saeuron.inspection.words import attribute
from saeuron.sae.autoencoder import SAE
from storage import Workspace, connect
from tasks import prompts as prompt_sets
from tasks.engine.model import pipeline
from tasks.explore.inspected import WORDS, inspected
from tasks.explore.shelf import Shelf
from tasks.inspection.attribute import AttributionJob, attributed
from tasks.registry import runs
from tasks.registry.saes import find
from tests.sae_workspace import HOOKPOINTS, build, explorer


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    return build(tmp_path_factory.mktemp("attributed") / "workspace", tiny_model_folder)


def job(workspace: Workspace, hookpoint: str) -> AttributionJob:
    """The latent that fires most on two images, or latent 0 where none can be attributed."""
    sae = find(workspace, hookpoint)
    prompts_id = workspace.read(sae.inputs["capture"]).inputs["prompts"]
    mine = [p for p in prompt_sets.read(workspace, prompts_id) if p.split == "test"][:2]
    run, latent = Run.of(workspace, runs.remembered(workspace), "cpu"), 0
    if hookpoint.endswith("attn2"):
        loaded, pipe = SAE.load(workspace.folder(sae.id)), pipeline(run.config.model, "cpu")
        ((_, steps),) = attribute(pipe, loaded, range(64), [Request(p, 0) for p in mine], run.config.model, 4)
        latent = int(sum(s.fires for s in steps).sum(0).argmax())
    return AttributionJob(
        workspace=workspace.root, model=run.config.model, model_id=run.model_id, sae_id=sae.id,
        latent=latent, images=tuple((p.id, 0) for p in mine),
        seed=4, random=60, prompts_id=prompts_id,
    )  # fmt: skip


def test_the_views_and_the_text(workspace: Workspace) -> None:
    made = attributed.fn(job(workspace, HOOKPOINTS[1]))
    with connect(workspace) as views:
        tokens = views.execute(
            "select max(n), min(n) from (select count(*) as n from attributions group by latent, prompt_id, timestep)"
        ).fetchone()
        sums = views.execute("select sum(attributed), count(*), max(decoder) from head_latents group by latent")
        shares = sums.fetchall()
        roles = {r for (r,) in views.execute("select distinct role from attributions").fetchall()}
    assert tokens == (2 * 16, 2 * 16) and roles == {"start", "end", "other", "style", "object"}
    assert len(shares) > 2 and all(s == pytest.approx(1) and n == 2 and d is None for s, n, d in shares)
    found = told(workspace, made.id)
    for what in ("roles", "words", "heads"):
        assert sum(r["share"] or 0 for r in found[what]) == pytest.approx(1)
        assert sum(r["random"] or 0 for r in found[what]) == pytest.approx(1)
    text = "\n".join(lines(found)).splitlines()
    assert max(map(len, text)) <= 80 and any(line.startswith("style") for line in text)
    # The latent's page in the explorer says the same words.
    about = workspace.manifest(made.id).summary
    also = inspected(Shelf(workspace), about["sae_id"], about["latent"])
    assert also.words == found["words"][:WORDS] and (also.images, also.steered) == (about["images"], [])
    with explorer(workspace) as client:
        page = client.get(f"/latent?sae={about['sae_id']}&i={about['latent']}").text
        assert "Words that it fires by" in page and f">{also.words[0]['name']}<" in unescape(page)
        assert "Words that it fires by" not in client.get(f"/latent?sae={about['sae_id']}&i={about['latent'] + 1}").text


def test_what_has_no_words(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="is not a cross-attention, so its latents have no words"):
        attributed.fn(job(workspace, HOOKPOINTS[0]))
    with pytest.raises(ConfigError, match="is not a cross-attention, so its latents have no words"):
        check(runs.remembered(workspace), find(workspace, HOOKPOINTS[0]), "cpu")
    check(runs.remembered(workspace), find(workspace, HOOKPOINTS[1]), "cpu")
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    with pytest.raises(ConfigError, match=r"latent 3 of sae_.* fires in no held-out image"):
        attribution_job(run, find(workspace, HOOKPOINTS[1]), 3)
