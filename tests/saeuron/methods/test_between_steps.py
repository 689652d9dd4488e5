"""Between two scored timesteps every edit takes what lies between theirs; at a scored one, that step's own bits."""

from itertools import pairwise
from typing import get_args

import pytest
import torch

from saeuron.methods.gates import Tier, gated
from saeuron.methods.latents import LatentEdit
from saeuron.methods.parts import at_step
from saeuron.methods.removal import Removal
from saeuron.methods.saeuron import build_edit
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.supervised import ExcessEdit
from tests.saeuron.methods.removals import TIMESTEPS, D, random_profile, random_sae

T = len(TIMESTEPS)
STEPS = torch.tensor(TIMESTEPS)
BETWEEN = [(TIMESTEPS[0] + TIMESTEPS[1]) // 2, TIMESTEPS[1] - 1, TIMESTEPS[-1] + 1]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed(values, timestep):
    """By hand, in float64: the share of each neighbour is its nearness."""
    for a, (high, low) in enumerate(pairwise(TIMESTEPS)):
        if high >= timestep >= low:
            share = (high - timestep) / (high - low)
            return (1 - share) * values[a].double() + share * values[a + 1].double()
    raise AssertionError(timestep)


ROWS = drawn(3, 4, D, seed=9)


@pytest.mark.parametrize("timestep", BETWEEN)
def test_a_steering_edit_between_steps_mixes_its_neighbours(timestep):
    edit = DirectionEdit("h", "both", STEPS, drawn(T, D))
    found = edit.delta(ROWS, timestep)
    torch.testing.assert_close(found[0, 0].double(), mixed(edit.direction, timestep), rtol=1e-5, atol=1e-6)
    assert not torch.equal(found[0, 0], edit.direction[0]) and found.shape == ROWS.shape
    for t, scored in enumerate(TIMESTEPS):
        assert torch.equal(edit.delta(ROWS, scored)[1, 2], edit.direction[t])


@pytest.mark.parametrize("timestep", BETWEEN)
def test_a_supervised_edit_between_steps_mixes_its_neighbours(timestep):
    edit = ExcessEdit("h", "both", STEPS, drawn(T, D, seed=1), drawn(T, D, seed=2), drawn(T, D, seed=3), 0.5)
    w, o, d = (mixed(values, timestep) for values in (edit.reader, edit.centre, edit.direction))
    edited = 0
    for row, found in zip(ROWS.flatten(0, 1), edit.delta(ROWS, timestep).flatten(0, 1), strict=True):
        a = float(w @ (row.double() - o))
        expected = a * d if a > 0.5 else torch.zeros(D, dtype=torch.float64)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
        edited += a > 0.5
    assert 0 < edited < 12
    assert torch.equal(edit.delta(ROWS, TIMESTEPS[1]), by_row(edit, 1))


def by_row(edit, t):
    a = (ROWS - edit.centre[t]) @ edit.reader[t]
    return torch.where(a > edit.floor, a, 0.0)[..., None] * edit.direction[t]


@pytest.mark.parametrize("tier", get_args(Tier))
@pytest.mark.parametrize("timestep", BETWEEN)
def test_a_gated_edit_between_steps_mixes_its_neighbours(tier, timestep):
    """The edit between is the edit whose table holds that timestep, made by hand."""
    plain = build_edit(random_sae(), random_profile(), 6, -2.0, sae_id="s")
    values, tau = drawn(*plain.floor.shape, seed=3), drawn(T, seed=4)
    edit = gated(plain, tier, values, gate="activation", tau=tau)
    a = next(i for i in range(T - 1) if TIMESTEPS[i] >= timestep >= TIMESTEPS[i + 1])
    one, other = torch.isfinite(edit.floor[a]), torch.isfinite(edit.floor[a + 1])

    def chosen(table):
        between = mixed(torch.where(torch.isfinite(table), table, 0.0), timestep).float()
        return torch.where(one & other, between, torch.where(one, table[a], table[a + 1]))[None]

    alone = LatentEdit(
        "h", "both", "s", torch.tensor([timestep]), edit.latents, chosen(edit.factor), chosen(edit.floor),
        edit.W_enc, edit.b_enc, edit.W_dec, edit.b_dec, edit.threshold, edit.activation, edit.k,
    )  # fmt: skip
    by_hand = gated(alone, tier, chosen(values), gate="activation", tau=mixed(tau, timestep).float()[None])
    delta, height = edit.gated(ROWS, timestep)
    expected, top = by_hand.gated(ROWS, timestep)
    torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(height, top, rtol=1e-5, atol=1e-6)
    assert torch.equal(edit.open_at(ROWS, timestep), by_hand.open_at(ROWS, timestep))
    assert bool(one.any()) and bool((one != other).any())
    # At a scored step nothing is mixed.
    assert torch.equal(edit.valued(TIMESTEPS[a]), values[a])


def test_outside_of_the_scored_steps_the_last_one_holds():
    values = drawn(T, D)
    assert torch.equal(at_step(values, STEPS, TIMESTEPS[0] + 50), values[0])
    assert torch.equal(at_step(values, STEPS, TIMESTEPS[-1] - 1), values[-1])


def test_a_file_keeps_it(tmp_path):
    edit = DirectionEdit("h", "both", STEPS, drawn(T, D))
    Removal("c", "d", "steering", {}, (edit,)).save(tmp_path / "r")
    [again] = Removal.load(tmp_path / "r").parts
    assert torch.equal(again.delta(ROWS, BETWEEN[0]), edit.delta(ROWS, BETWEEN[0]))
