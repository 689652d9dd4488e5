"""Candidates and their validation images are made once; another judge chooses from them and generates nothing."""

from pathlib import Path

import numpy as np
import pytest

import saeuron.generation
from flows.run import Run
from saeuron import judges
from saeuron.methods.removal import Removal
from saeuron.prompts import Prompt
from storage import Workspace
from tasks import prompts as prompt_sets
from tasks import trials as module
from tasks.engine.job import Made
from tasks.engine.judge import DomainJudge
from tasks.prompts import images_id
from tasks.registry import runs
from tasks.trials import TrialsJob, candidate_file, pictures, trials
from tasks.tune import TuneJob, tune
from tests.sae_workspace import build
from tests.tasks.test_judge import Bright


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    return build(tmp_path_factory.mktemp("trials") / "w", tiny_model_folder)


@pytest.fixture
def job(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> TrialsJob:
    """Two candidates by a method that needs no SAE, on four validation images."""
    monkeypatch.setattr(judges, "JUDGES", {**judges.JUDGES, "bright": Bright})
    config = runs.remembered(made)
    prompts_id = made.artifacts("prompts")[0].id
    own = [Prompt(f"The {name} thing.", "validation", {"style": name, "object": "cat"}) for name in ("neon", "dots")]
    monkeypatch.setattr(prompt_sets, "read", lambda workspace, name: own)
    tuning = config.tune.model_copy(update={"target_images": 2, "retained_images": 2})
    images = module.validation_images(own, tuning, "style", "neon", ("neon", "dots"))
    return TrialsJob(
        workspace=made.root, model=config.model, model_id=Run.of(made, config, "cpu").model_id, config=tuning,
        domain="style", concept="neon", method="negative_prompt",
        candidates=({"text": "{concept}"}, {"text": "An image of {concept}."}), reference=("neon", "dots"),
        prompts_ids=(prompts_id,), images_id=images_id(images), hookpoints=(),
    )  # fmt: skip


def chosen(job: TrialsJob, judge: str) -> Made:
    own = DomainJudge(spec=f"bright:{judge}", id=f"bright-{judge}", labels=("dots", "neon"))
    other = DomainJudge(spec="bright:o", id="bright-o", labels=("cat", "moon"))
    tuned = TuneJob(
        workspace=job.workspace, trials=job, trials_id=job.id, domain="style", concept="neon",
        method="negative_prompt", domains=("style", "object"), judges={"style": own, "object": other},
    )  # fmt: skip
    return tune.fn(tuned)


def test_another_judge_chooses_from_the_same_images(job: TrialsJob, monkeypatch: pytest.MonkeyPatch) -> None:
    about = trials.fn(job)
    assert about.summary == {
        "domain": "style", "concept": "neon", "method": "negative_prompt", "candidates": 2, "images": 4,
    }  # fmt: skip
    unedited, first, second = (pictures(job.open, job.id, name) for name in ("unedited", "000", "001"))
    assert unedited.keys() == first.keys() == second.keys() and len(unedited) == 4
    assert any((unedited[key] != first[key]).any() for key in unedited)
    kept = [Removal.load(job.folder / candidate_file(i)).settings for i in range(2)]
    assert kept == list(job.candidates)

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("an image was generated")

    monkeypatch.setattr(saeuron.generation, "sample", refuse)
    one, two = chosen(job, "1"), chosen(job, "2")
    assert one.id != two.id
    # Both judges see the same, so they choose the same: what image sets count is equal.
    assert one.summary["content"] == two.summary["content"]
    assert one.summary["settings"] in kept and one.summary["searched"] is True


def test_images_that_an_interrupted_task_left_whole_are_not_generated_again(
    job: TrialsJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials.fn(job)
    before = {path.name: path.read_bytes() for path in job.folder.glob("*.tar")}
    (job.folder / "manifest.json").unlink()
    (job.folder / "001.tar").write_bytes(b"cut")
    seen: list[int] = []
    real = saeuron.generation.sample

    def counted(pipe: object, texts: list[str], *rest: object, **more: object) -> np.ndarray:
        seen.append(len(texts))
        return real(pipe, texts, *rest, **more)

    monkeypatch.setattr(saeuron.generation, "sample", counted)
    trials.fn(job)
    assert len(seen) == 1
    assert {path.name: path.read_bytes() for path in job.folder.glob("*.tar")} == before
