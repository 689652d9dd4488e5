"""UCE where a prompt asks for the concept, or an SAE sees it; the gate beside that of `semantic_gate`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.methods.detection.probe import SHUT, Probe, stricter
from saeuron.methods.detection.prompt_probe import PromptProbe
from saeuron.methods.removal import Removal
from saeuron.methods.text.states import embeddings
from tests.saeuron.methods.detection.sensing import ASKED, images, shut


def made(name, evidence):
    method = methods.get(name)
    return method.removal(evidence, method.learn(evidence), method.candidates({})[-1])


@pytest.fixture(scope="module")
def by_prompt(evidence):
    return made("prompt_uce", evidence)


def test_prompts_that_ask_for_it_get_uces_pictures_and_others_their_own(by_prompt, evidence, tiny_pipe):
    without, found = images(tiny_pipe), images(tiny_pipe, by_prompt)
    [part] = by_prompt.parts
    method = methods.get("uce")
    [plain] = method.parts(evidence, method.learn(evidence), {"erase": 1.0, "toward": by_prompt.settings["toward"]})
    assert torch.equal(plain.up, part.up) and torch.equal(plain.down, part.down)
    whole = images(tiny_pipe, Removal("c", "d", "uce", {}, (plain,)))
    asks = np.array([evidence.concept in r.prompt.text for r in ASKED])
    assert 0 < asks.sum() < len(asks)
    np.testing.assert_array_equal(found[~asks], without[~asks])
    assert np.abs(found[asks].astype(int) - whole[asks]).max() <= 1
    assert np.abs(found[asks].astype(int) - without[asks]).max() > 3


def test_its_gate_is_that_of_semantic_gate(by_prompt, evidence, tiny_pipe):
    [probe] = by_prompt.parts[0].probes
    assert isinstance(probe, PromptProbe)
    gate = methods.get("semantic_gate").learn(evidence)
    states = embeddings(tiny_pipe, [r.prompt.text for r in ASKED])
    g = gate.cosines(states)[:, 0] - gate.tau[0]
    assert torch.equal(probe.height(states), g) and (g >= 0).any() and (g < 0).any()
    margin = probe.margin(states)
    assert torch.equal(margin >= 0, g >= 0) and margin.abs().max() <= 1


def test_either_opens_where_one_of_both_does(evidence, tiny_pipe):
    [part] = made("either_uce", evidence).parts
    sae, prompt = part.probes
    assert isinstance(sae, Probe) and isinstance(prompt, PromptProbe)

    def pictures(*probes):
        return images(tiny_pipe, Removal("c", "d", "either_uce", {}, (replace(part, probes=probes),)))

    never = replace(prompt, gates=(replace(prompt.gates[0], tau=torch.full((1,), 2.0)),))
    np.testing.assert_array_equal(pictures(shut(sae), prompt), pictures(prompt))
    np.testing.assert_array_equal(pictures(sae, never), pictures(sae))
    np.testing.assert_array_equal(pictures(shut(sae), never), images(tiny_pipe))


def test_a_strict_probe_is_shut_for_every_image_of_others_and_no_stricter_than_that():
    generator = torch.Generator().manual_seed(0)
    no, w = torch.randn(30, 2, generator=generator), torch.tensor([1.0, -2.0])
    highest = (no @ w).max()
    for bias in (0.0, -float(highest) + 0.5):
        g = no @ w + stricter(w, bias, no)
        assert g.max() < 0 and float(g.max()) == pytest.approx(-SHUT, abs=1e-5)
    assert stricter(w, -float(highest) - 1, no) == -float(highest) - 1


def test_the_random_control_reads_other_latents_by_the_same_rule(evidence):
    parts = {name: made(name, evidence).parts[0] for name in ("either_uce", "either_uce_random", "gated_uce_random")}
    by_name = {name: part.probes[0] for name, part in parts.items()}
    drawn = by_name["either_uce_random"]
    assert torch.equal(drawn.latents, by_name["gated_uce_random"].latents)
    assert not torch.equal(drawn.latents, by_name["either_uce"].latents)
    assert torch.equal(drawn.weights, by_name["gated_uce_random"].weights)
    assert drawn.bias <= by_name["gated_uce_random"].bias
    assert isinstance(parts["either_uce_random"].probes[1], PromptProbe)
