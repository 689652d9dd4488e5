"""An attack's loss knows a gate that is decided at a generation's first step."""

from dataclasses import replace

import pytest
import torch

from saeuron.attacks import Target
from saeuron.attacks.soft import SHUT, Noised, replaced, table_of
from saeuron.methods.removal import Removal, removed
from tests.saeuron.methods.detection.sensing import ASKED, MODEL, between, images, probe_at, rows_at, uce
from tests.saeuron.methods.removals import PATH, TIMESTEPS

SEED = 5
"""That of `images` and `rows_at`."""


@pytest.fixture(scope="module")
def gated(plain, tiny_pipe):
    """(removal, bool [2]: whether it opens for the first image of each prompt, how far it is open)."""
    probe, _ = probe_at(tiny_pipe, PATH)
    first = [i for i, request in enumerate(ASKED) if request.index == 0]
    rows = rows_at(tiny_pipe, PATH)[0][1][first]
    heights = probe.height(rows)
    probe = replace(probe, bias=probe.bias - float(between(heights, 0.5)))
    opened = probe.height(rows) >= 0
    assert opened.sum() == 1
    p = (rows.flatten(2).transpose(1, 2) @ probe.W.T + probe.b).amax(1)
    margin = (p @ probe.weights + probe.bias) / ((p * probe.weights).abs().sum(1) + abs(probe.bias))
    return uce(plain, probe), opened, margin


def losses(pipe, removals):
    """Of the first image of each prompt, at the third step."""
    wanted = [r for r in ASKED if r.index == 0]
    pictures, prompts = images(pipe, wanted=wanted), [r.prompt for r in wanted]
    with removed(pipe, removals) as about:
        target = Target(pipe, "cat", prompts, pictures, {}, MODEL, SEED, gates=about.gates)
        return Noised(target, 4).loss([0, 1], [p.text for p in prompts], TIMESTEPS[2])


def test_the_loss_is_that_of_what_would_be_drawn_and_how_far_the_gate_is_open(gated, plain, tiny_pipe):
    removal, opened, margin = gated
    with torch.no_grad():
        found = losses(tiny_pipe, [removal])
        without, whole = losses(tiny_pipe, []), losses(tiny_pipe, [Removal("c", "d", "uce", {}, (plain,))])
    assert (without - whole).abs().min() > 1e-3
    expected = torch.where(opened, whole, without) + (margin + SHUT).clamp(min=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_gradient_reaches_the_words_through_the_gate(gated, tiny_pipe):
    removal, opened, _ = gated
    texts = [r.prompt.text for r in ASKED if r.index == 0]
    ids = tiny_pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, 1:3] = True
    gradients = []
    for removals in ([removal], []):
        soft = table_of(tiny_pipe, ids[where]).requires_grad_()
        with torch.enable_grad(), replaced(tiny_pipe, where, soft):
            loss = losses(tiny_pipe, removals)
            gradients.append(torch.autograd.grad(loss.sum(), [soft])[0].view(2, -1))
    mine, unedited = gradients
    assert torch.isfinite(mine).all() and (mine.norm(dim=1) > 0).all()
    assert (mine - unedited)[opened].norm() > 1e-6


def test_the_removal_does_what_it_did_afterwards(gated, tiny_pipe):
    removal, _, _ = gated
    before = images(tiny_pipe, removal)
    with removed(tiny_pipe, [removal]) as about:
        [gate] = about.gates
        with pytest.raises(RuntimeError, match="full"), gate.held():
            raise RuntimeError("full")
        assert gate.opened is None and gate.margins is None
    assert (images(tiny_pipe, removal) == before).all()
