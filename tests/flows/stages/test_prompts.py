"""Prompts that are longer than the model reads are said, with the words that are cut."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.stages.capture import _job
from flows.stages.prompts import PromptSet, prompts, too_long
from saeuron.config import RunConfig
from saeuron.prompts import Prompt
from storage import Workspace
from tasks.engine.job import Made

LONG = "a " * 20


def test_the_words_that_are_cut() -> None:
    found = [Prompt("A cat.", "train", {"object": "cat"}), Prompt(f"Cat {LONG}", "train", {"object": "cat"})]
    assert too_long("canvas20", found[:1]) == ""
    said = too_long("canvas20", found)
    assert said.startswith("1 of 2 prompts are longer than the 16 tokens that the model reads, and 0 of them lose")
    said = too_long("canvas20", [*found, Prompt(f"The {LONG} cat", "test", {"object": "cat"})])
    assert "2 of 3 prompts" in said and "1 of them lose a concept; of 'The a a" in said and "a cat'" in said


@pytest.mark.parametrize("cached", [False, True])
def test_it_is_said_when_the_set_is_made(tmp_path: Path, cached: bool) -> None:
    workspace, said = Workspace.open(tmp_path / "w"), []
    config = RunConfig.model_validate(
        {
            "model": {"spec": "canvas20"},
            "domains": {"object": {"concepts": ["cat", "moon"], "hookpoints": ["unet.mid_block"]}},
            "prompts": {"templates": {"train": [f"A {LONG} {{object}}."]}},
        }
    )
    run = SimpleNamespace(
        workspace=workspace.root, config=config, added=(), say=said.append,
        step=lambda task, job: Made(id=job.id, cached=cached),
    )  # fmt: skip
    assert len(prompts(run)[""].prompts) == 2
    assert [line.startswith("note: 2 of 2 prompts are longer") for line in said] == [True] * (not cached)


def test_images_to_train_on_may_have_steps_of_their_own(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"spec": "canvas20", "steps": 100},
            "domains": {"object": {"concepts": ["cat", "moon"], "hookpoints": ["unet.mid_block"]}},
        }
    )
    assert "steps" not in config.capture.model_dump()  # ids of before there was a choice
    own = config.model_copy(update={"capture": config.capture.model_copy(update={"steps": 50})})
    fewer = config.model_copy(update={"model": config.model.model_copy(update={"steps": 50})})
    prompt_set = PromptSet("prompts", (Prompt("A cat.", "train", {"object": "cat"}),))
    jobs = [
        _job(SimpleNamespace(workspace=tmp_path, device="cpu", config=c, model_id="m"), prompt_set, "unet.mid_block")
        for c in (config, own, fewer)
    ]
    assert [job.model.steps for job in jobs] == [100, 50, 50]
    assert jobs[1].id == jobs[2].id != jobs[0].id
