"""What every method keeps to, over every entry; and how one is found, or added from outside."""

import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.methods.base import Evidence, Method
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.states import FARTHEST
from saeuron.methods.weights import esd, text_redirect
from saeuron.profiles import DomainTotals, profile
from saeuron.prompts import Prompt
from saeuron.scoring import Accumulator
from saeuron.tuning import candidates
from tests.saeuron.methods.removals import PATH, random_sae

MODEL = ModelConfig(steps=3, guidance=2.0, micro_batch=8)
TARGET, OTHERS = (
    requests([Prompt(text, "train", {"style": style})], 2)
    for text, style in (("A cat in neon style.", "neon"), ("A cat in dots style.", "dots"))
)
ASKED = requests([Prompt("A star in neon style.", "test", {"style": "neon"})], 2)


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Methods that train: what is looked at here does not depend on how long."""
    monkeypatch.setattr(esd, "PICTURES", 2)
    monkeypatch.setattr(text_redirect, "STEPS", 20)


@pytest.fixture(scope="module")
def evidence(tiny_pipe) -> Evidence:
    """All that a method may ask for, of the tiny pipeline."""
    sae = random_sae(width=16, n=64)
    totals = []
    for images in (TARGET, OTHERS):
        accumulator = Accumulator(sae, "conditional")
        with attached(tiny_pipe, readers={PATH: accumulator}):
            list(generate(tiny_pipe, images, MODEL, seed=1))
        totals.append(accumulator.totals())
    return Evidence(
        "neon", "style", (PATH,), "both", {PATH: sae}, {PATH: "s"},
        {PATH: profile(totals[0], DomainTotals.of(totals))}, tiny_pipe, MODEL, TARGET, OTHERS,
        [TARGET[0].prompt, ASKED[0].prompt], [r.prompt for r in OTHERS[:1]], 1,
    )  # fmt: skip


def draw(pipe, removals):
    with removed(pipe, removals) as attached_:
        return next(picture for _, picture in generate(pipe, ASKED, MODEL, 5, extra=attached_.call))


@pytest.mark.parametrize("name", methods.names())
def test_a_method_changes_the_image_saves_and_comes_off(name, evidence, tiny_pipe, tmp_path):
    unedited, method = draw(tiny_pipe, []), methods.get(name)
    found = candidates(method, evidence)
    farthest = {"toward": "dots"}  # the only other style that is asked for
    expected = [each | (farthest if each.get("toward") == FARTHEST else {}) for each in method.candidates({})]
    assert [dict(r.settings) for r in found] == expected
    assert {(r.concept, r.domain, r.method) for r in found} == {("neon", "style", name)}
    strongest = draw(tiny_pipe, found[-1:])
    if name != "gated_uce_random":  # whose probe, of two latents drawn at random, stays closed here
        assert (strongest != unedited).any()
    assert (draw(tiny_pipe, [found[-1].at(0)]) == unedited).all()
    found[-1].save(tmp_path / "r.safetensors")
    again = Removal.load(tmp_path / "r.safetensors")
    assert (draw(tiny_pipe, [again]) == strongest).all()
    again.save(tmp_path / "s.safetensors")
    assert (tmp_path / "r.safetensors").read_bytes() == (tmp_path / "s.safetensors").read_bytes()
    assert (draw(tiny_pipe, []) == unedited).all()


def test_steering_subtracts_the_difference_of_means(evidence, tiny_pipe):
    # By hand: every row that the module gives for the conditional half, image by image.
    module = tiny_pipe.unet.up_blocks[1].attentions[1]
    sums = []
    for images in (TARGET, OTHERS):
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda m, a, output, seen=seen: seen.append(output[0].detach()))
        for request in images:
            list(generate(tiny_pipe, [request], MODEL, evidence.seed))
        handle.remove()
        steps = [torch.stack(seen[t :: MODEL.steps]) for t in range(MODEL.steps)]
        # One image was filled up to a micro-batch of eight: the conditional half begins at 8.
        sums.append([s[:, 8].flatten(2).permute(0, 2, 1).double().mean((0, 1)) for s in steps])
    [edit] = methods.get("steering").parts(evidence, methods.get("steering").learn(evidence), {"strength": 2.0})
    x = torch.randn(3, 4, 16)
    for t, timestep in enumerate(edit.timesteps.tolist()):
        expected = (-2.0 * (sums[0][t] - sums[1][t])).float().expand_as(x)
        torch.testing.assert_close(edit.delta(x, timestep), expected, rtol=1e-4, atol=1e-6)


def test_a_negative_prompt_is_the_pipelines_own(evidence, tiny_pipe):
    removal = candidates(methods.get("negative_prompt"), evidence, [{"text": "{concept} {domain}"}])[0]
    assert removal.parts[0].arguments == {"negative_prompt": "neon style"}
    [(_, plain)] = generate(tiny_pipe, ASKED, MODEL, 5, extra={"negative_prompt": "neon style"})
    assert (draw(tiny_pipe, [removal]) == plain).all()


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("saeuron", {"m": (1,)}, "unknown setting of the method 'saeuron' 'm'"),
        ("saeuron", {"n": ()}, "setting 'n' of the method 'saeuron' has no values"),
        ("saeuron", {"n": (0,)}, "n holds 0; a removal edits a whole number of latents, at least 1"),
        ("saeuron", {"n": (2.5,)}, "n holds 2.5"),
        ("negative_prompt", {"text": ("{concept.x}",)}, "text holds '{concept.x}'; expected a sentence with {concept}"),
        ("saeuron", {"gamma": (-1.0, 0.0)}, "gamma holds 0.0; the multiplier of an edited latent is negative"),
        ("steering", {"strength": (0,)}, "strength holds 0; expected numbers above 0"),
        ("negative_prompt", {"text": ("{who}",)}, "text holds '{who}'"),
        ("negative_prompt", {"text": (" ",)}, "text holds ' '"),
        ("saeuron", {"gamma": (float("nan"),)}, "gamma holds nan; expected finite numbers"),
        ("steering", {"strength": (1.0, float("inf"))}, "strength holds inf; expected finite numbers"),
    ],
)
def test_settings_that_cannot_be_used(name, grid, message):
    with pytest.raises((ConfigError, UnknownName)) as caught:
        methods.get(name).candidates(grid)
    assert message in str(caught.value)


def test_candidates_go_from_mild_to_strong():
    found = methods.get("saeuron").candidates({"n": (8, 2), "gamma": (-4, -1)})
    assert found == [{"n": n, "gamma": g, "scale": "mean"} for n in (2, 8) for g in (-1.0, -4.0)]


def test_a_method_has_a_control_of_its_own_or_that_of_saeuron():
    found = [
        methods.control(name, kind)
        for name in ("saeuron", "gated_uce", "either_uce", "replace")
        for kind in ("untrained", "random")
    ]
    own = [f"{name}_{kind}" for name in ("gated_uce", "either_uce") for kind in ("untrained", "random")]
    assert found == ["untrained", "random", *own, "replace_untrained", "random"]


def test_a_method_that_reads_latents_has_an_untrained_control():
    method, control = methods.get("sauce"), methods.get("sauce_untrained")
    assert isinstance(control, type(method)) and (method.dictionary, method.like) == ("trained", "")
    assert (control.name, control.dictionary, control.like) == ("sauce_untrained", "untrained", "sauce")


@pytest.mark.parametrize("name", ["uce_untrained", "saeuron_untrained", "untrained_untrained", "frozen_untrained"])
def test_no_other_method_has_one(name):
    with pytest.raises(UnknownName, match=f"unknown method '{name}'"):
        methods.get(name)


def test_a_method_from_outside_is_found_by_its_name():
    class Mine(Method):
        name = "mine"
        needs = frozenset({"latents"})

        def parts(self, evidence, learned, settings):
            return (Call({"negative_prompt": "mine"}),)

    mine = Mine()
    methods.register(mine)
    try:
        assert methods.get("mine") is mine
        assert "mine" in methods.names()
        assert methods.get("mine_untrained").like == "mine"
        with pytest.raises(ConfigError, match="there is a method 'mine' already"):
            methods.register(Mine())
    finally:
        methods.unregister("mine")
    with pytest.raises(UnknownName, match="unknown method 'mine': known: clipped_steering, either_uce, "):
        methods.get("mine")
    with pytest.raises(UnknownName, match="did you mean 'steering'"):
        methods.get("stering")


def test_scale_share_changes_each_latent_by_gamma_times_all_activation():
    from saeuron.methods.saeuron import MIN_SHARE, SAeUron, multiplier

    mean = torch.tensor([[0.5, 0.3, 0.2, 0.0], [4.0, 0.0005, 0.0, 0.0]])
    factor = multiplier(mean, -2.0, "share")
    for t, row in enumerate(mean.tolist()):
        for i, mu in enumerate(row):
            expected = -2.0 * sum(row) / mu if mu / sum(row) >= MIN_SHARE else 1.0
            assert factor[t, i] == pytest.approx(expected)
    assert torch.equal(multiplier(mean, -2.0, "mean"), -2.0 * mean)
    with pytest.raises(UnknownName, match="unknown scale of gamma 'shares': did you mean 'share'"):
        SAeUron().candidates({"scale": ["shares"]})
    assert len(SAeUron().candidates({"scale": ["mean", "share"], "n": [1], "gamma": [-1.0]})) == 2


def test_scale_share_reaches_the_edit(evidence):
    from saeuron.methods.saeuron import build_edit

    about = evidence.profiles[PATH]
    edits = {s: build_edit(evidence.saes[PATH], about, 3, -1.0, scale=s) for s in ("mean", "share")}
    assert torch.equal(edits["mean"].latents, edits["share"].latents)
    chosen = torch.isfinite(edits["share"].floor)
    p = about.mean / about.mean.sum(1, keepdim=True)
    expected = torch.where(p >= 1e-3, -1.0 / p.clamp(min=1e-3), 1.0)[:, edits["share"].latents]
    assert torch.allclose(edits["share"].factor[chosen], expected[chosen], rtol=1e-5)
