"""The probe against loops and another solver."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.generation import generate
from saeuron.hooks import attached
from saeuron.methods.detection.probe import RIDGE, fit, heights, probes, reading, strongest
from tests.saeuron.methods.detection.sensing import FIRST, places, pre_activation
from tests.saeuron.methods.removals import PATH


def loss(yes, no, weights, bias):
    """The head of probe.py, term by term; |w| is of standardised latents."""
    x = torch.cat([yes, no])
    total = sum(torch.log1p(torch.exp(-(row @ weights + bias))) for row in yes) / len(yes)
    total = total + sum(torch.log1p(torch.exp(row @ weights + bias)) for row in no) / len(no)
    return total + RIDGE * (weights * x.std(0, correction=0)).square().sum() / 2


@pytest.mark.parametrize("apart", [0.0, 1.0, 30.0])
def test_fit_is_the_minimum(apart):
    """Also where the two are told apart without error, and where classes are of unlike sizes."""
    chance = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 100.0, 0.01])
    yes = (torch.randn(9, 3, generator=chance, dtype=torch.float64) + apart * torch.tensor([1.0, -1.0, 0.0])) * scale
    no = torch.randn(25, 3, generator=chance, dtype=torch.float64) * scale
    weights, bias = fit(yes, no)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    spread = torch.cat([yes, no]).std(0, correction=0)
    solver = torch.optim.LBFGS([w, b], lr=0.5, max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        solver.zero_grad()
        value = loss(yes, no, w / spread, b)
        value.backward()
        return value

    solver.step(closure)
    torch.testing.assert_close(weights.double() * spread, w.detach(), rtol=1e-3, atol=1e-4)
    assert bias == pytest.approx(float(b.detach()), rel=1e-3, abs=1e-3)
    if apart == 30.0:
        assert (yes @ weights.double() + bias).min() > 0 > (no @ weights.double() + bias).max()


def test_a_latent_that_never_changes_weighs_nothing():
    yes, no = torch.tensor([[1.0, 5.0], [2.0, 5.0]]), torch.tensor([[0.0, 5.0], [0.5, 5.0]])
    weights, bias = fit(yes, no)
    assert weights[1] == 0 and weights[0] > 0 and np.isfinite(bias)


@pytest.mark.parametrize("hookpoint", [FIRST, PATH])
def test_heights_are_those_of_the_first_step_of_each_image(evidence, tiny_pipe, hookpoint):
    """Images are drawn one by one here, to their end; there several together, one step each."""
    sae = evidence.saes[FIRST]
    plain = reading(sae, strongest(evidence, FIRST, 3))
    runs = []
    with attached(tiny_pipe, readers={"unet.mid_block": lambda step, out, source: runs.append(step.index)}):
        [found] = heights(evidence, evidence.others, [replace(plain, hookpoint=hookpoint)])
    assert runs == [0] and found.shape == (len(evidence.others), 3)
    for image, request in zip(found, evidence.others, strict=True):
        seen = []
        with attached(tiny_pipe, readers={hookpoint: lambda step, out, source, seen=seen: seen.append(out)}):
            list(generate(tiny_pipe, [request], evidence.model, evidence.seed))
        own = seen[0][8]  # One image was filled up to eight: the conditional half begins at 8.
        for value, latent in zip(image, plain.latents, strict=True):
            expected = max(pre_activation(sae, latent, own[:, y, x]) for y, x in places(own))
            assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_probes_open_for_the_images_they_were_fitted_to(evidence, tiny_pipe):
    """Two images asked for the concept, five for another: eight latents tell them apart."""
    [probe] = probes(evidence, 8)
    assert len(probe.latents) == 8 and probe.W.shape == (8, 16)
    for images, opens in ((evidence.target, True), (evidence.others, False)):
        seen = []
        with attached(tiny_pipe, readers={FIRST: lambda step, out, source, seen=seen: seen.append((step, out[8:]))}):
            for request in images:
                list(generate(tiny_pipe, [request], evidence.model, evidence.seed))
        first = torch.cat([out[:1] for _, out in seen[:: evidence.model.steps]])
        assert ((probe.height(first) >= 0) == opens).all()


def test_the_first_step_is_the_highest_timestep_in_whatever_order_they_are(evidence, tiny_pipe):
    """A workspace stores statistics from image to noise, `saeuron.score` gives them from noise to image."""
    about = evidence.profiles[FIRST]
    turned = replace(evidence, profiles={FIRST: type(about)(*(values.flip(0) for values in about))})
    one, two = probes(evidence, 2), probes(turned, 2)
    assert one[0].content() == two[0].content()
    for method in (methods.get("gated_uce"), methods.get("gated_uce_random")):
        assert torch.equal(method.selected(evidence, FIRST, 2), method.selected(turned, FIRST, 2))
