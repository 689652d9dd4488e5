"""Steering by one latent: what is read, what is added, what is counted, by slow formulas; alpha 0 changes no bit."""

import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import BadPrompts
from saeuron.generation import generate, requests
from saeuron.hooks import attached, to_rows
from saeuron.inspection.steer import Outcome, Readings, best, directions, images, outcome, pushed
from saeuron.methods.local import Setting, turned
from saeuron.methods.removal import Removal, removed
from saeuron.pages.grid import grid
from saeuron.pages.pictures import picture_of
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.diagnosis.explanations import Rule

HOOKPOINT = "unet.up_blocks.1.attentions.0"
MODEL = ModelConfig(steps=2, guidance=2.0, micro_batch=8)
NEON = Rule("one", (("style", "neon"),))
PROMPTS = [Prompt("A cat.", "test"), Prompt("A moon.", "test"), Prompt("A star.", "test")]


@pytest.fixture(scope="module")
def sae():
    torch.manual_seed(0)
    made = SAE(SAEInfo("topk", hookpoint=HOOKPOINT, width=16, n_latents=24, activation="topk", k=4))
    with torch.no_grad():
        made.W_enc.copy_(torch.randn(24, 16))
        made.W_dec.copy_(torch.nn.functional.normalize(torch.randn(24, 16), dim=1))
    return made


def drawn(pipe, wanted, model=MODEL, reader=None, removals=()):
    found = []
    with attached(pipe, readers={HOOKPOINT: reader} if reader else {}), removed(pipe, removals, any_model=True):
        for _, pictures in generate(pipe, wanted, model, 3, begin=reader.begin if reader else None):
            found += [*pictures]
            if reader:
                reader.take()
    return found


def test_readings_are_means_by_hand_whatever_the_batch(tiny_pipe, sae):
    wanted, seen = requests(PROMPTS, 1), []
    reader = Readings(sae, 5)
    with attached(tiny_pipe, readers={HOOKPOINT: lambda s, x, _: seen.append(to_rows(s.half(x, "conditional", 3)))}):
        drawn(tiny_pipe, wanted)
    drawn(tiny_pipe, wanted, reader=reader)
    total, count = 0.0, 0
    for i in range(3):
        rows = torch.cat([step[i] for step in seen]).double()
        assert reader.means[i] == pytest.approx(rows.mean(0), abs=1e-6)
        for row in rows:
            f = float(sae.encode(row.float()[None]).detach()[0, 5])
            total, count = total + (f if f > 0 else 0), count + (f > 0)
    assert count > 0 and reader.strength == pytest.approx(total / count, rel=1e-4)
    small = Readings(sae, 5)
    drawn(tiny_pipe, wanted[:2], MODEL, small)
    drawn(tiny_pipe, wanted[2:], MODEL, small)
    assert small.means == pytest.approx(reader.means, abs=1e-5) and small.strength == pytest.approx(reader.strength)


def test_a_silent_latent_has_no_strength_and_moves_nothing(tiny_pipe, sae):
    with torch.no_grad():
        kept = sae.b_enc[7].clone()
        sae.b_enc[7] = -1e6
    reader = Readings(sae, 7)
    drawn(tiny_pipe, requests(PROMPTS, 1), reader=reader)
    with torch.no_grad():
        sae.b_enc[7] = kept
    assert reader.strength == 0
    found = directions(sae, 7, 3, reader.strength, reader.means[:1], reader.means[1:])
    assert all(v.abs().max() == 0 for v in found.values())


def test_what_is_pushed_is_what_turning_the_latent_adds_and_alpha_0_changes_no_bit(tiny_pipe, sae):
    rows = torch.randn(4, 9, 16)
    v = directions(sae, 5, 11, 0.7, torch.randn(3, 16), torch.randn(2, 16))
    edit = pushed(HOOKPOINT, v["latent"], -2.0, "both").edits[0]
    by_hand = turned(sae, {5: Setting(1.0, -2.0 * 0.7)})
    assert torch.allclose(edit.delta(rows, 40).expand_as(rows), by_hand.delta(rows, 40).expand_as(rows), atol=1e-6)
    wanted = requests(PROMPTS[:1], 1)
    plain = drawn(tiny_pipe, wanted)[0]
    assert (drawn(tiny_pipe, wanted, removals=[pushed(HOOKPOINT, v["latent"], 0.0, "both")])[0] == plain).all()
    strong = drawn(tiny_pipe, wanted, removals=[pushed(HOOKPOINT, v["latent"], 40.0, "both")])[0]
    same = Removal("latents", "by hand", "saeuron", {}, (turned(sae, {5: Setting(1.0, 40 * 0.7)}),))
    assert (strong != plain).any()
    assert abs(strong.astype(int) - drawn(tiny_pipe, wanted, removals=[same])[0]).max() <= 1


def test_controls_are_as_long_and_point_where_they_should(sae):
    with_it, without = torch.randn(5, 16), torch.randn(3, 16)
    v = directions(sae, 5, 11, 0.7, with_it, without)
    length = [float(x.norm()) for x in v.values()]
    assert length == pytest.approx([0.7 * float(sae.W_dec[5].detach().norm())] * 3, rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(v["random"], sae.W_dec[11].detach(), dim=0)) == pytest.approx(1, abs=1e-5)
    assert float(cosine(v["difference"], with_it.mean(0) - without.mean(0), dim=0)) == pytest.approx(1, abs=1e-5)


def test_images_ask_or_do_not_ask_for_the_rule():
    prompts = [
        Prompt(f"A {o} in {s} style.", "test", {"object": o, "style": s})
        for o in ("cat", "moon")
        for s in ("neon", "dots", "sketch")
    ] + [Prompt("A cat.", "test", {"object": "cat"})]
    found = images(prompts, NEON, True, 5, 1)
    assert len(found) == 5 == len({r.key for r in found}) and {r.prompt.concepts["style"] for r in found} == {"neon"}
    # A prompt that says nothing of the domain is no prompt without it: the rule could not be judged.
    assert {r.prompt.concepts["style"] for r in images(prompts, NEON, False, 4, 1)} == {"dots", "sketch"}
    assert images(prompts, NEON, True, 5, 1) == images(reversed(prompts), NEON, True, 5, 1)
    with pytest.raises(BadPrompts, match="every prompt asks for style is neon, dots or sketch"):
        images(prompts, Rule("any", (("style", "neon"), ("style", "dots"), ("style", "sketch"))), False, 2, 1)
    with pytest.raises(BadPrompts, match="no prompt asks for style is sepia"):
        images(prompts, Rule("one", (("style", "sepia"),)), True, 2, 1)


def test_outcomes_are_counted_image_by_image():
    before = [{"style": "neon", "object": o} for o in ("cat", "moon", "cat", "moon")]
    after = [
        {"style": "dots", "object": "cat"},
        {"style": "dots", "object": "cat"},
        {"style": "neon", "object": "cat"},
        {"style": "sketch", "object": "moon"},
    ]
    usual = [True, False, True, True]
    assert outcome(NEON, False, before, after, usual, ["style", "object"]) == Outcome(3, 1, 1, 4)
    assert outcome(NEON, True, before, after, usual, ["style", "object"]) == Outcome(1, 1, 1, 4)
    assert outcome(NEON, True, before, after, [None] * 4, ["style"]) == Outcome(1, None, None, 4)
    either = Rule("any", (("style", "dots"), ("style", "sketch")))
    assert outcome(either, True, before, after, usual, ["style", "object"]).on == 3


def test_success_needs_all_three_and_the_best_alpha_is_a_success_before_it_is_a_strong_one():
    assert Outcome(5, 1, 1, 10).success is True
    assert [Outcome(4, 0, 0, 10).success, Outcome(10, 2, 0, 10).success, Outcome(10, 0, 2, 10).success] == [False] * 3
    assert Outcome(10, None, 0, 10).success is None
    assert best({1.0: Outcome(5, 1, 1, 10), 2.0: Outcome(10, 2, 0, 10)}) == 1.0
    assert best({-1.0: Outcome(0, 0, 0, 10), -8.0: Outcome(0, 0, 0, 10)}) == -1.0
    assert best({1.0: Outcome(3, 0, None, 10), 2.0: Outcome(9, 1, None, 10)}) == 2.0


def test_a_grid_has_every_picture_in_its_place(tmp_path):
    pictures = [torch.full((8, 8, 3), value, dtype=torch.uint8).numpy() for value in (10, 60, 110, 160)]
    bands = [("up", ["a", "b"], [("first", pictures[:2])]), ("down", ["a", "b"], [("second", pictures[2:])])]
    drawn = picture_of(grid(bands, "title", tmp_path / "grid.png", side=16).read_bytes())
    for value in (10, 60, 110, 160):
        assert (drawn == value).all(2).sum() >= 16 * 16
    with pytest.raises(ValueError, match="at least one picture"):
        grid([], "title", tmp_path / "none.png")
