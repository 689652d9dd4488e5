"""A merged removal is a function of the set, for every method: in every order, one after another or at once."""

import itertools

import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.methods.base import Evidence
from saeuron.methods.latents import combine
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.methods.weights import esd, text_redirect
from saeuron.methods.weights.part import WeightMap
from saeuron.profiles import DomainTotals, profile
from saeuron.prompts import Prompt
from saeuron.scoring import Accumulator
from saeuron.tuning import candidates
from tests.saeuron.methods.removals import PATH, assert_same_edit, random_profile, random_sae

MODEL = ModelConfig(steps=3, guidance=2.0, micro_batch=8)
NAMES = ("neon", "dots", "sketch")
PROMPTS = {name: Prompt(f"A cat in {name} style.", "train", {"style": name}) for name in NAMES}
# Of both, because a gate leaves what asks for another concept as it is.
ASKED = requests([Prompt(f"A star in {name} style.", "test", {"style": name}) for name in NAMES[:2]], 1)


@pytest.fixture(autouse=True)
def _brief(monkeypatch):
    """Methods that train: what is looked at here does not depend on how long."""
    monkeypatch.setattr(esd, "PICTURES", 2)
    monkeypatch.setattr(text_redirect, "STEPS", 20)


@pytest.fixture(scope="module")
def evidences(tiny_pipe) -> list[Evidence]:
    """All that a method may ask for, of three concepts of the tiny pipeline."""
    sae, images, totals = random_sae(width=16, n=64), {n: requests([p], 2) for n, p in PROMPTS.items()}, {}
    for name in NAMES:
        accumulator = Accumulator(sae, "conditional")
        with attached(tiny_pipe, readers={PATH: accumulator}):
            list(generate(tiny_pipe, images[name], MODEL, seed=1))
        totals[name] = accumulator.totals()
    whole = DomainTotals.of(list(totals.values()))
    return [
        Evidence(
            name, "style", (PATH,), "both", {PATH: sae}, {PATH: "s"}, {PATH: profile(totals[name], whole)}, tiny_pipe,
            MODEL, images[name], [r for n in NAMES if n != name for r in images[n]], [PROMPTS[name]],
            [PROMPTS[other]], 1,
        )
        for name, other in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)
    ]  # fmt: skip


def draw(pipe, removals):
    with removed(pipe, removals) as attached_:
        return next(picture for _, picture in generate(pipe, ASKED, MODEL, 5, extra=attached_.call))


@pytest.mark.parametrize("name", methods.names())
def test_every_order_gives_the_same_file(name, evidences, tiny_pipe, tmp_path):
    method = methods.get(name)
    made = [candidates(method, e, [method.candidates({})[-1]], {"of": e.concept})[0] for e in evidences]
    a, b, c = made
    ways = [Removal.merge(order) for order in itertools.permutations(made)]
    ways += [Removal.merge([Removal.merge([a, b]), c]), Removal.merge([c, Removal.merge([b, a])])]
    ways += [Removal.merge([b, Removal.merge([c, a])]), Removal.merge([c, a, b, a, c])]
    files = set()
    for i, merged in enumerate(ways):
        merged.save(tmp_path / f"{i}.safetensors")
        files.add((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(files) == 1
    assert ways[0].concept == "dots + neon + sketch" and {k.split(".")[0] for k in ways[0].settings} == {*NAMES}
    # What is drawn is that of the removals side by side, in any order; and not that of each alone: one may be, where a
    # gate is closed for the others.
    pictures = [draw(tiny_pipe, of) for of in (made, made[::-1], [Removal.load(tmp_path / "0.safetensors")])]
    assert all((picture == pictures[0]).all() for picture in pictures)
    if name != "gated_uce_random":  # whose gates stay closed here
        assert any((pictures[0] != draw(tiny_pipe, [one])).any() for one in made)


def test_equal_factors_take_the_positive_one_and_then_the_lower_floor():
    sae = random_sae()
    profiles = [random_profile()._replace(threshold=torch.full((4, 40), floor)) for floor in (0.3, 0.1, 0.2)]
    edits = [build_edit(sae, p, 6, -2.0, sae_id="s") for p in profiles]
    signed = [edits[0], edits[1], type(edits[2])(**vars(edits[2]) | {"factor": edits[2].factor.abs()})]
    for group, floor, sign in ((edits, 0.1, -1), (signed, 0.2, 1)):
        found = [combine(order)[0][0] for order in itertools.permutations(group)]
        chosen = torch.isfinite(found[0].floor)
        assert chosen.any() and (found[0].floor[chosen] == torch.tensor(floor)).all()
        assert (found[0].factor[chosen].sign() == sign).all()
        for other in found[1:]:
            assert_same_edit(found[0], other)


def test_changes_of_weights_add_up_in_any_order():
    g = torch.Generator().manual_seed(0)
    layers, weight = ("unet.a",), torch.randn(5, 4, generator=g)
    parts = [WeightMap(layers, torch.randn(4, r, generator=g), torch.randn(r, 4, generator=g)) for r in (1, 3, 2)]
    expected = weight.double() + sum(weight.double() @ p.up.double() @ p.down.double() for p in parts)
    for order in itertools.permutations(parts):
        [made], _ = WeightMap.combined(order)
        torch.testing.assert_close(made.new(weight).double(), expected, rtol=1e-5, atol=1e-5)
        again, _ = WeightMap.combined([WeightMap.combined(order[:2])[0][0], order[2]])
        assert torch.equal(again[0].up, made.up) and torch.equal(again[0].down, made.down)


def test_texts_are_joined_once_and_one_alone_is_left_as_it_is():
    one, two = Call({"negative_prompt": "ugly, blurry"}), Call({"negative_prompt": "blurry, cat"})
    assert Call.combined([one])[0] == [one]
    for order in ([one, two], [two, one]):
        assert Call.combined(order)[0][0].arguments == {"negative_prompt": "blurry, cat, ugly"}


def test_a_removal_merged_with_itself_is_itself(evidences):
    method = methods.get("uce")
    [made] = candidates(method, evidences[0], [method.candidates({})[-1]])
    assert Removal.merge([made, made]) is made
