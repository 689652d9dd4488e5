"""Clipped steering against loops; what has nothing along the direction stays bit for bit."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, WidthMismatch
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.methods.base import Evidence
from saeuron.methods.clipped_steering import ClippedEdit
from saeuron.methods.removal import Removal, removed
from saeuron.prompts import Prompt

METHOD = methods.get("clipped_steering")
MODEL = ModelConfig(steps=2, guidance=2.0, micro_batch=8)
CROSS = [
    f"unet.{block}.transformer_blocks.0.attn2" for block in ("down_blocks.0.attentions.0", "mid_block.attentions.0")
]


def edit(beta=1.0, half="both", seed=0):
    v = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
    return ClippedEdit("unet.mid_block", half, torch.tensor([900, 100]), v / v.norm(dim=1, keepdim=True), beta)


def test_only_positive_projections_are_taken():
    part, x = edit(1.5), torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
    first, last = part.direction.double()
    # Between two steps that were read the direction lies between theirs, and has length 1 as they have.
    for timestep, mixed in ((950, first), (100, last), (500, (first + last) / 2)):
        v, delta = mixed / mixed.norm(), part.delta(x, timestep)
        signs = set()
        for image in range(3):
            for place in range(5):
                along = float(x[image, place].double() @ v)
                signs.add(along > 0)
                torch.testing.assert_close(
                    delta[image, place].double(), -1.5 * max(0.0, along) * v, atol=1e-5, rtol=1e-4
                )
                assert along > 0 or not delta[image, place].any()
        assert signs == {True, False}
    once = edit(1.0)
    assert float(((x + once.delta(x, 900)) @ once.direction[0]).max()) < 1e-5
    with pytest.raises(WidthMismatch):
        part.delta(x[..., :4], 900)


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    def images(style):
        return requests([Prompt(f"A {o} in {style} style.", "train", {"style": style}) for o in ("cat", "dog")], 2)

    return Evidence("neon", "style", ("unet.mid_block",), "conditional", pipe=tiny_pipe, model=MODEL, seed=3,
                    target=images("neon"), others=images("dots"))  # fmt: skip


@pytest.fixture(scope="module")
def removal(evidence):
    return METHOD.removal(evidence, METHOD.learn(evidence), {"beta": 2.0})


def test_directions_are_normalised_differences_of_means_at_cross_attentions(evidence, removal):
    rows: dict[tuple[str, str, int], list[torch.Tensor]] = {}
    for name, images in (("target", evidence.target), ("others", evidence.others)):
        for path in CROSS:
            # Of a guided batch the second half is the conditional one; all eight rows of it count here.
            def read(step, output, source, name=name, path=path):
                rows.setdefault((name, path, step.timestep), []).append(output[8:12].double().flatten(0, 1))

            with attached(evidence.pipe, readers={path: read}):
                list(generate(evidence.pipe, images, MODEL, evidence.seed))
    parts = {p.hookpoint: p for p in removal.parts}
    assert len(parts) > 2 and {*CROSS} < {*parts} and all(path.endswith(".attn2") for path in parts)
    for path in CROSS:
        part = parts[path]
        assert part.half == "conditional"
        for row, timestep in enumerate(part.timesteps.tolist()):
            d = torch.cat(rows["target", path, timestep]).mean(0) - torch.cat(rows["others", path, timestep]).mean(0)
            torch.testing.assert_close(part.direction[row].double(), d / d.norm(), rtol=1e-3, atol=1e-4)


def draw(pipe, removals):
    asked = requests([Prompt(t, "test") for t in ("A neon star.", "A dots star.")], 1)
    with removed(pipe, removals):
        return np.concatenate([p for _, p in generate(pipe, asked, MODEL, 5)])


def test_strength_several_and_files(evidence, removal, tmp_path):
    pipe, plain = evidence.pipe, draw(evidence.pipe, [])
    edited = draw(pipe, [removal])
    assert (edited != plain).any() and (draw(pipe, [removal.at(0)]) == plain).all()
    removal.save(tmp_path / "r")
    assert (draw(pipe, [Removal.load(tmp_path / "r")]) == edited).all()
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(edit(2.0).scaled(0.5).delta(x, 900), edit(1.0).delta(x, 900))
    # Several: each on the output itself, so that their order does not matter.
    parts = [p for order in (0, 1) for p in Removal.merge([_of(edit(seed=order)), _of(edit(seed=1 - order))]).parts]
    first, second = (sum(p.delta(x, 900) for p in parts[i : i + 2]) for i in (0, 2))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, edit(seed=0).delta(x, 900) + edit(seed=1).delta(x, 900))


def _of(part):
    return Removal("neon", "style", "clipped_steering", {}, (part,))


def test_settings_and_models_without_cross_attention(evidence, monkeypatch):
    with pytest.raises(ConfigError, match="beta holds -1; expected numbers above 0"):
        METHOD.candidates({"beta": (-1,)})
    monkeypatch.setattr("saeuron.methods.clipped_steering.hookpoints", lambda pipe: {})
    with pytest.raises(ConfigError, match="has no modules of cross-attention"):
        METHOD.learn(evidence)
