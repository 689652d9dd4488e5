"""Which scored steps an edit takes its values from, where another number of steps or another scheduler draws.

The pipelines are real, with their own schedulers and sizes; only the denoiser's arithmetic is left out. Each table of
steps is computed anew, in float64, from the formula of its scheduler.
"""

import copy
import math

import diffusers
import numpy as np
import pytest
import torch

from saeuron.hooks import attached
from saeuron.methods.steering import DirectionEdit
from saeuron.pipelines import family_of
from tests.saeuron.pipelines import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # from the code of diffusers, with recent versions of numpy

SCORED, USED = 50, (20, 28, 100)
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise of Stable Diffusion."""
CELL = 2
"""Pixels of a latent of the tiny pipelines, along one side; 8 in the real ones."""


def leading(n):
    """DDIM as Stable Diffusion sets it."""
    return [i * (1000 // n) + 1 for i in reversed(range(n))]


def spread(n):
    """Euler: from the last trained step to the first, ends included."""
    return [999 - i * 999 / (n - 1) for i in range(n)]


def rounded(n):
    """DPM-Solver++: the same with one step more, rounded, and the last left out."""
    return [round(999 - i * 999 / n) for i in range(n)]


DIFFUSION = {
    "ddim": (diffusers.DDIMScheduler(**TRAINED, steps_offset=1, clip_sample=False), leading),
    "dpm++": (diffusers.DPMSolverMultistepScheduler(**TRAINED), rounded),
    "euler": (diffusers.EulerDiscreteScheduler(**TRAINED), spread),
}


def shifted(s, by):
    """2403.03206, equation 23: the share of noise, moved towards noise."""
    return by * s / (1 + (by - 1) * s)


def by_size(side):
    """Flux's shift of a picture of `side` x `side` latents, four to a position: exp of a line through two sizes."""
    return math.exp(0.5 + (1.15 - 0.5) * (side**2 / 4 - 256) / (4096 - 256))


def flux(side):
    """As its pipeline says: from 1 to 1 / n, then shifted."""
    return lambda n: [1000 * shifted(s, by_size(side)) for s in np.linspace(1, 1 / n, n)]


def sized_sd3(side):
    """Stable Diffusion 3 with a shift by size: from 1 to the least trained share."""
    return lambda n: [1000 * shifted(s, by_size(side)) for s in np.linspace(1, 0.001, n)]


def sd3(by):
    """Stable Diffusion 3 with one shift for all sizes, which diffusers also applies to the least share."""
    return lambda n: [1000 * shifted(s, by) for s in np.linspace(1, shifted(0.001, by), n)]


SHIFT_BY_SIZE = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
FLOW = {
    "flux, 1024 pixels": ("flux-dev", diffusers.FlowMatchEulerDiscreteScheduler(**SHIFT_BY_SIZE), 128, flux(128)),
    "flux, 512 pixels": ("flux-dev", diffusers.FlowMatchEulerDiscreteScheduler(**SHIFT_BY_SIZE), 64, flux(64)),
    "sd3": ("sd3", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 128, sd3(3.0)),
    "sd3, shift 6": ("sd3", diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0), 128, sd3(6.0)),
    "sd3, 1024 pixels": ("sd3", diffusers.FlowMatchEulerDiscreteScheduler(**SHIFT_BY_SIZE), 128, sized_sd3(128)),
    "sd3, 512 pixels": ("sd3", diffusers.FlowMatchEulerDiscreteScheduler(**SHIFT_BY_SIZE), 64, sized_sd3(64)),
}


@pytest.fixture(scope="module")
def pipes():
    with torch.random.fork_rng(devices=[]):
        return {name: tiny.BUILD[name]() for name in ("sd", "sd3", "flux-dev")}


def seen(pipe, scheduler, steps, side, monkeypatch):
    """The timesteps that an edit is told during one generation of `side` x `side` latents."""
    found, net = [], family_of(pipe).denoiser(pipe)
    pipe.scheduler = scheduler.from_config(scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    with attached(pipe) as step, monkeypatch.context() as patch, torch.no_grad():

        def forward(*args, **kwargs):
            found.append(step.timestep)
            return (torch.zeros_like(args[0] if args else kwargs["hidden_states"]),)

        patch.setattr(net, "forward", forward)
        size = {"height": CELL * side, "width": CELL * side}
        pipe("A cat.", num_inference_steps=steps, guidance_scale=3.0, output_type="latent", **size)
    return found


def weights(scored, timesteps):
    """The weight of each scored step in an edit at each of these: its direction at scored step i is unit vector i."""
    known = torch.tensor(sorted(set(scored), reverse=True))
    edit = DirectionEdit("h", "both", known, torch.eye(len(known)))
    rows = torch.zeros(1, 1, len(known))
    return known.tolist(), torch.stack([edit.delta(rows, t)[0, 0] for t in timesteps]).double().numpy()


def slowly(known, timestep):
    """The weights by trying every pair of scored steps, in float64; the closest pair around a timestep counts."""
    if timestep >= max(known):
        best = (known.index(max(known)),) * 2
    elif timestep <= min(known):
        best = (known.index(min(known)),) * 2
    else:
        pairs = [(a, b) for a, high in enumerate(known) for b, low in enumerate(known) if high >= timestep >= low]
        best = min(pairs, key=lambda pair: known[pair[0]] - known[pair[1]])
    a, b = best
    share = 0.0 if a == b else (known[a] - timestep) / (known[a] - known[b])
    found = np.zeros(len(known))
    found[a] += 1 - share
    found[b] += share
    return found


def check(scored, seen_scored, used, seen_used):
    """Compare weights with both references; returns how many steps take one scored step, and how many a mixture.

    `scored` and `used` are tables in float64; edits are told them without their fractions.
    """
    for exact, told in ((scored, seen_scored), (used, seen_used)):
        assert len(exact) == len(told)
        np.testing.assert_array_less(np.abs(np.array(exact) - told - 0.5), 0.501)
    known, found = weights(seen_scored, seen_used)
    assert len(known) == len(scored)
    np.testing.assert_allclose(found, [slowly(known, t) for t in seen_used], rtol=0, atol=1e-6)
    # With the fractions: the mixture of two scored steps lies where the new step does, to less than one timestep of
    # 1000, or a share of noise of 0.001; outside of the scored ones it is the last of them.
    meant = np.clip(np.array(used, dtype=float), min(scored), max(scored))
    assert np.abs(found @ np.array(scored) - meant).max() < 1.001
    # One scored step, or two beside each other.
    kinds = [np.flatnonzero(row) for row in found]
    assert all(len(kind) == 1 or (len(kind) == 2 and kind[1] == kind[0] + 1) for kind in kinds)
    return sum(len(kind) == 1 for kind in kinds), sum(len(kind) == 2 for kind in kinds)


@pytest.mark.parametrize("drawn", DIFFUSION)
@pytest.mark.parametrize("scored", DIFFUSION)
def test_stable_diffusion_by_timestep(scored, drawn, pipes, monkeypatch):
    (one, table), (other, new) = DIFFUSION[scored], DIFFUSION[drawn]
    at_score = seen(pipes["sd"], one, SCORED, tiny.SIDE, monkeypatch)
    mixed = 0
    for n in USED:
        at_use = seen(pipes["sd"], other, n, tiny.SIDE, monkeypatch)
        mixed += check(table(SCORED), at_score, new(n), at_use)[1]
    assert mixed > 20


def test_twice_as_many_steps_of_ddim_by_hand(pipes, monkeypatch):
    """981, 961, .. 1 were scored; of 991, 981, .. 1 every other is one of them, or half of each neighbour."""
    scheduler, table = DIFFUSION["ddim"]
    known, found = weights(table(SCORED), seen(pipes["sd"], scheduler, 100, tiny.SIDE, monkeypatch))
    assert known[:3] == [981, 961, 941] and known[-1] == 1
    assert {*np.flatnonzero(found[0])} == {0}  # 991 lies outside
    for i in range(50):
        assert found[2 * i + 1, i] == 1
    for i in range(1, 50):
        assert found[2 * i, i - 1] == found[2 * i, i] == 0.5


@pytest.mark.parametrize("karras", [diffusers.DPMSolverMultistepScheduler, diffusers.EulerDiscreteScheduler])
def test_karras_steps_take_scored_steps_of_the_noise_around_theirs(karras, pipes, monkeypatch):
    """Its steps are set by sigma, from which the timestep follows; the table that was scored is DDIM's."""
    a = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    sigma = ((1 - a) / a) ** 0.5
    for n in USED:
        ramp = np.linspace(0, 1, n)
        meant = (sigma[-1] ** (1 / 7) + ramp * (sigma[0] ** (1 / 7) - sigma[-1] ** (1 / 7))) ** 7
        told = seen(pipes["sd"], karras(**TRAINED, use_karras_sigmas=True), n, tiny.SIDE, monkeypatch)
        known, found = weights(leading(SCORED), told)
        inside = 0
        for value, row in zip(meant, found, strict=True):
            used = [known[i] for i in np.flatnonzero(row)]
            if not sigma[min(known) + 1] < value < sigma[max(known)]:
                continue
            # A timestep is a whole number: sigma may lie one of them beyond.
            assert sigma[min(used) - 1] <= value <= sigma[max(used) + 1]
            inside += 1
        assert inside > n / 2


@pytest.mark.parametrize(
    ("scored", "drawn"),
    [
        ("flux, 1024 pixels", "flux, 1024 pixels"),
        ("flux, 1024 pixels", "flux, 512 pixels"),
        ("flux, 512 pixels", "flux, 1024 pixels"),
        ("sd3", "sd3"),
        ("sd3", "sd3, shift 6"),
        ("sd3, 1024 pixels", "sd3, 1024 pixels"),
        ("sd3, 1024 pixels", "sd3, 512 pixels"),
        ("sd3, 512 pixels", "sd3"),
    ],
)
def test_flow_matching_by_sigma(scored, drawn, pipes, monkeypatch):
    (name, one, side, table), (_, other, new_side, new) = FLOW[scored], FLOW[drawn]
    at_score = seen(pipes[name], one, SCORED, side, monkeypatch)
    mixed = 0
    for n in USED:
        at_use = seen(pipes[name], other, n, new_side, monkeypatch)
        mixed += check(table(SCORED), at_score, new(n), at_use)[1]
        if scored != drawn:
            # A match by place in the list would be wrong by much.
            by_place = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, SCORED), table(SCORED))
            assert np.abs(by_place - new(n)).max() > 50
    assert mixed > 20


def test_flux_in_half_precision(pipes, monkeypatch):
    """bfloat16 holds eight bits of a timestep, in the scheduler's list and once more divided by 1000."""
    pipe = copy.deepcopy(pipes["flux-dev"]).to(torch.bfloat16)
    _, scheduler, side, table = FLOW["flux, 1024 pixels"]
    at_score = seen(pipe, scheduler, SCORED, side, monkeypatch)
    for n in USED:
        at_use, used = seen(pipe, scheduler, n, side, monkeypatch), np.array(table(n))
        known, found = weights(at_score, at_use)
        np.testing.assert_allclose(found, [slowly(known, t) for t in at_use], rtol=0, atol=1e-6)
        assert np.abs(found @ np.array(known) - np.clip(used, min(known), max(known))).max() < 5
