"""Prompts that are longer than the model reads are said, with the words that are cut."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.stages.prompts import prompts, too_long
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
