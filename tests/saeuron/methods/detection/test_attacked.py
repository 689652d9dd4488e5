"""An attack's loss knows a gate that is decided before a generation begins."""

from dataclasses import replace

import pytest
import torch

from saeuron.attacks import Target
from saeuron.attacks.soft import SHUT, Noised, replaced, table_of
from saeuron.methods.detection.sensor import sensors
from saeuron.methods.removal import Removal, removed
from tests.saeuron.methods.detection.sensing import ASKED, MODEL, between, evidence_at, images, rows_at, uce
from tests.saeuron.methods.removals import PATH, TIMESTEPS, T

SEED = 5
"""That of `images` and `rows_at`."""


@pytest.fixture(scope="module")
def gated(plain, tiny_pipe):
    """(removal, bool [2]: whether the gate opens for the first image of each prompt). Only the second step counts."""
    [late] = sensors(evidence_at(tiny_pipe, PATH), 3)
    rows = rows_at(tiny_pipe, PATH)[1][1].flatten(2).transpose(1, 2)
    reached = late.gated(rows, TIMESTEPS[1])[1][: len(ASKED)]
    first = [i for i, request in enumerate(ASKED) if request.index == 0]
    tau = torch.full((T,), torch.inf)
    tau[1] = between(reached[first], 0.5)
    opened = reached[first] >= tau[1]
    assert opened.sum() == 1
    return (
        uce(plain, replace(late, gate="activation", tau=tau), "image", 1),
        opened,
        (reached[first] - tau[1]) / (reached[first] + tau[1]),
    )


def losses(pipe, removals, gates=True):
    """Of the first image of each prompt, at the third step."""
    wanted = [r for r in ASKED if r.index == 0]
    pictures, prompts = images(pipe, wanted=wanted), [r.prompt for r in wanted]
    with removed(pipe, removals) as about:
        target = Target(pipe, "cat", prompts, pictures, {}, MODEL, SEED, gates=about.gates if gates else ())
        return Noised(target, 4).loss([0, 1], [p.text for p in prompts], TIMESTEPS[2])


def test_the_loss_is_that_of_what_would_be_drawn_and_how_far_the_gate_is_open(gated, plain, tiny_pipe):
    removal, opened, margin = gated
    with torch.no_grad():
        found = losses(tiny_pipe, [removal])
        without, whole = losses(tiny_pipe, []), losses(tiny_pipe, [Removal("c", "d", "uce", {}, (plain,))])
        # What an attack that does not look ahead takes for the loss: the model's own, for both.
        blind = losses(tiny_pipe, [removal], gates=False)
    assert (without - whole).abs().min() > 1e-3
    expected = torch.where(opened, whole, without) + (margin + SHUT).clamp(min=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(blind, without, rtol=1e-5, atol=1e-6)


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
        assert not gate.silent and not gate.asleep
    assert (images(tiny_pipe, removal) == before).all()
