"""`saeuron latent steer`: from explanations to the view `steering`, the sheet and the text; mistakes."""

import pathlib

import numpy as np
import pytest

from flows.inspection.steer import lines, steer_jobs, told
from flows.run import Run
from saeuron.errors import ConfigError
from saeuron.generation import generate
from saeuron.hooks import attached
from saeuron.inspection.steer import Readings, images, pushed
from saeuron.judges import Judgement
from saeuron.methods.removal import removed
from saeuron.pages.pictures import picture_of
from saeuron.sae.autoencoder import SAE
from storage import Workspace, connect
from tasks import prompts as prompt_sets
from tasks.engine import model
from tasks.engine.judge import DomainJudge
from tasks.explore.inspected import inspected
from tasks.explore.shelf import Shelf
from tasks.inspection.steer import PICTURE, SteerJob, steer
from tasks.registry import runs
from tasks.registry.saes import find
from tests.sae_workspace import HOOKPOINTS, build, explained, explorer

BY = {
    "style": DomainJudge(spec="fake", id="fake", labels=("dots", "neon")),
    "object": DomainJudge(spec="fake", id="fake", labels=("cat", "moon")),
}


def look(self: DomainJudge, domain: str, pictures: np.ndarray, device: str) -> list[Judgement]:
    """Something that depends on the picture: one of two labels by the parity of the sum of its numbers."""
    return [Judgement(self.labels[int(p.sum(dtype=int)) % 2], 0.9) for p in pictures]


def ordinary(self: DomainJudge, domain: str, pictures: np.ndarray, device: str) -> list[bool]:
    return [int(p.sum(dtype=int)) % 3 != 0 for p in pictures]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: pathlib.Path) -> SteerJob:
    workspace = build(tmp_path_factory.mktemp("steered") / "workspace", tiny_model_folder)
    run, sae = Run.of(workspace, runs.remembered(workspace), "cpu"), find(workspace, HOOKPOINTS[0])
    with pytest.raises(
        ConfigError, match=r"nothing says what the latents of sae_v\S+ fire on; run saeuron sae explain"
    ):
        steer_jobs(run, sae, None, 2, 3)
    explained(workspace, sae, workspace.read(sae.inputs["capture"]).inputs["prompts"])
    with pytest.raises(ConfigError, match=r"no judge for \w+"):
        steer_jobs(run, sae, None, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "judges", lambda self, concept: BY)
        jobs = steer_jobs(run, sae, None, 2, 3)
        with pytest.raises(ConfigError, match=r"latent 8 of .* has no rule of one domain that some images lack"):
            steer_jobs(run, sae, 8, 1, 3)
        with pytest.raises(ConfigError, match=r"latent 10000 of .* has no rule of one domain"):
            steer_jobs(run, sae, 10000, 1, 3)
        [again] = steer_jobs(run, sae, jobs[1].latent, 1, 3)
    assert [(j.latent, j.rule.words) for j in jobs] == [(3, "style is neon"), (5, "object is cat")]
    assert jobs[0].confidence >= jobs[1].confidence and again.id == jobs[1].id
    return jobs[0]


@pytest.fixture(scope="module")
def made(job: SteerJob) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DomainJudge, "look", look)
        patch.setattr(DomainJudge, "ordinary", ordinary)
        steer.fn(job)
    return job.open


def test_the_view_holds_what_turning_the_latent_by_hand_does(job: SteerJob, made: Workspace) -> None:
    with connect(made) as views:
        rows = views.execute(
            "select kind, split, alpha, chosen, on_target, off_target, odd, n, unedited from steering"
        ).fetchall()
    assert len(rows) == 3 * 2 * 5 and {row[7] for row in rows} == {3}
    for kind in ("latent", "random", "difference"):
        for sign in (1, -1):
            mine = [row for row in rows if row[0] == kind and row[2] * sign > 0]
            [taken] = {row[2] for row in mine if row[3]}
            assert sorted(row[1] for row in mine if row[3]) == ["test", "validation"]
            assert [row[2] for row in mine if row[1] == "test"] == [taken]

    pipe, sae = model.pipeline(job.model, "cpu"), SAE.load(made.folder(job.sae_id))
    prompts = prompt_sets.read(made, job.prompts_id)
    reader = Readings(sae, job.latent)
    # As the step does, because the last bit of a sum depends on its order, and parity on the last bit of a picture.
    for holds in (False, True):
        wanted = images([p for p in prompts if p.split == "validation"], job.rule, holds, 3, job.config.seed)
        with attached(pipe, readers={HOOKPOINTS[0]: reader}):
            for _ in generate(pipe, wanted, job.model, job.config.seed, begin=reader.begin):
                reader.take()
    v = reader.strength * sae.W_dec[job.latent].detach().double()
    for row in rows:
        if row[0] != "latent" or abs(row[2]) != 8:
            continue
        mine = [p for p in prompts if p.split == row[1]]
        wanted = images(mine, job.rule, row[2] < 0, 3, job.config.seed)
        with removed(pipe, [pushed(HOOKPOINTS[0], v, row[2], job.config.half)], any_model=True):
            [(_, found)] = generate(pipe, wanted, job.model, job.config.seed)
        [(_, plain)] = generate(pipe, wanted, job.model, job.config.seed)
        domain = job.values[0][0]
        holds = [job.rule.holds({domain: j.label}) for j in look(BY[domain], domain, found, "cpu")]
        other = next(d for d in BY if d != domain)
        pairs = zip(look(BY[other], other, plain, "cpu"), look(BY[other], other, found, "cpu"), strict=True)
        by_hand = (
            np.mean([h is (row[2] > 0) for h in holds]),
            np.mean([a.label != b.label for a, b in pairs]),
            np.mean([not usual for usual in ordinary(BY[domain], domain, found, "cpu")]),
        )
        assert row[4:7] == pytest.approx(by_hand)


def test_the_sheet_and_the_text(job: SteerJob, made: Workspace) -> None:
    picture = picture_of((made.folder(job.id) / PICTURE).read_bytes())
    assert picture.shape[0] > 400 and picture.std() > 5
    rows = told(made, [job.id])
    text = "\n".join(lines(rows)).splitlines()
    assert max(map(len, text)) <= 80
    assert any(line.startswith("difference") for line in text) and any(line.startswith("random") for line in text)
    unjudged = [row | {"off_target": None, "odd": None, "success": None} for row in rows]
    assert "cannot be said" in lines(unjudged)[-1]


def test_another_latent_rule_or_judge_is_another_artifact(job: SteerJob) -> None:
    other = {"style": BY["style"].model_copy(update={"id": "other"})}
    changed = [{"latent": job.latent + 1}, {"values": (("style", "a"),)}, {"judges": other}, {"form": "any"}]
    assert len({job.id, *(job.model_copy(update=c).id for c in changed)}) == 5


def test_the_page_of_the_latent_shows_what_turning_it_did(job: SteerJob, made: Workspace) -> None:
    with connect(made) as views:
        chosen = views.execute("select kind, alpha, on_target from steering where split = 'test'").fetchall()
    also = inspected(Shelf(made), job.sae_id, job.latent)
    assert sorted((s["kind"], s["alpha"], s["on_target"]) for s in also.steered) == sorted(chosen)
    assert [s["kind"] for s in also.steered[:2]] == ["latent", "latent"] and also.words == []
    with explorer(made) as client:
        page = client.get(f"/latent?sae={job.sae_id}&i={job.latent}").text
        assert page.count("difference of means</td>") == 2 and 'that do not ask for "style is neon"' in page
        assert "Turned up and down" not in client.get(f"/latent?sae={job.sae_id}&i={job.latent + 1}").text
