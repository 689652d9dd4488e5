"""A baked model generates what the attached removal does; what cannot be folded is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, requests
from saeuron.methods.bake import bake, unfoldable
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.part import WeightMap
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt
from storage import Workspace
from tests.end_to_end.process import run_here
from tests.saeuron.methods.removals import PATH, example

ASKED = requests([Prompt("A cat in neon style.", "test")], 1)


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    return np.concatenate([p for _, p in generate(pipe, ASKED, ModelConfig(steps=2, guidance=2.0), 5)]).astype(int)


def foldable(pipe):
    chance = torch.Generator().manual_seed(0)
    up, down = (torch.randn(*shape, generator=chance) for shape in ((32, 2), (2, 32)))
    direction = torch.randn(1, 16, generator=chance).expand(3, -1).contiguous()
    parts = (
        WeightMap(cross_attention(pipe), 0.3 * up, down),
        DirectionEdit(PATH, "both", torch.tensor([900, 500, 100]), direction),
    )
    return Removal("neon", "style", "uce", {}, parts)


def test_a_baked_folder_generates_as_the_attached_removal(make_pipe, tiny_model_folder, tmp_path):
    pipe = make_pipe()
    removal, plain = foldable(pipe), draw(pipe)
    with removal.attached(pipe):
        expected = draw(pipe)
    replace(removal, provenance={"model": str(tiny_model_folder)}).save(tmp_path / "neon.safetensors")
    out = tmp_path / "baked"
    done = run_here("removal", "bake", tmp_path / "neon.safetensors", "--out", out, "-w", tmp_path / "w")
    assert done.code == 0, done.err
    assert f"wrote {out}" in done.out and "next: saeuron bench canvas" in done.out
    baked = draw(load_pipeline(out))
    assert np.abs(baked - plain).max() > 5
    # Sums in another order: rounding.
    assert np.abs(baked - expected).max() <= 1
    again = run_here("removal", "bake", tmp_path / "neon.safetensors", "--out", out, "-w", tmp_path / "w")
    assert again.code == 2 and "is there already; give a new or empty folder" in again.complaint
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_cannot_be_folded_is_said_and_nothing_is_changed(make_pipe):
    pipe = make_pipe()
    before = {name: p.clone() for name, p in pipe.unet.named_parameters()}
    weights, direction = foldable(pipe).parts
    steps = DirectionEdit(PATH, "both", direction.timesteps, direction.direction * torch.tensor([[1.0], [2.0], [3.0]]))
    half = DirectionEdit(PATH, "conditional", direction.timesteps, direction.direction)
    removal = Removal("neon", "style", "mixed", {}, (weights, steps, half, example().parts[0], Call({"a": "b"})))
    reasons = ("differs between steps", "conditional half alone", "depends on the image", "depends on the image")
    for said, why in zip(unfoldable(removal, pipe), reasons, strict=True):
        assert why in said
    with pytest.raises(ConfigError, match="the removal of 'neon' by mixed cannot be baked: direction at"):
        bake(pipe, removal)
    assert all(torch.equal(p, before[name]) for name, p in pipe.unet.named_parameters())


def test_a_removal_of_a_workspace_that_cannot_be_baked(tmp_path: Path) -> None:
    Workspace.open(tmp_path / "w")
    done = run_here("removal", "bake", "neon", "--out", tmp_path / "out", "-w", tmp_path / "w")
    assert done.code == 2 and "neon" in done.complaint and not (tmp_path / "out").exists()


def test_what_no_model_can_have_folded_is_refused_before_one_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tasks.exchange.bake.load_pipeline", refuse)
    example().save(tmp_path / "neon.safetensors")
    done = run_here("removal", "bake", tmp_path / "neon.safetensors", "--out", tmp_path / "out", "-w", tmp_path / "w")
    assert done.code == 2 and "cannot be baked" in done.complaint
