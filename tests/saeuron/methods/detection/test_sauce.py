"""Latents found with a few images."""

import torch

from saeuron import methods
from saeuron.generation import generate
from saeuron.hooks import attached
from tests.saeuron.methods.detection.sensing import MODEL, evidence_at
from tests.saeuron.methods.removals import PATH, TIMESTEPS


def few_means(pipe, sae, few, seed):
    """{timestep: mean f, float64 [N]} of images, each drawn alone."""
    seen = {}

    def read(step, output, source):
        # One image was filled up to eight: the conditional half begins at 8.
        seen.setdefault(step.timestep, []).append(output[8].flatten(1).T)

    with attached(pipe, readers={PATH: read}):
        for request in few:
            list(generate(pipe, [request], MODEL, seed))
    return {t: sae.encode(torch.stack(rows)).double().mean((0, 1)) for t, rows in seen.items()}


def test_sauce_finds_latents_with_a_few_images(tiny_pipe):
    evidence = evidence_at(tiny_pipe, PATH)
    sae = evidence.saes[PATH]
    sums = [few_means(tiny_pipe, sae, few[:8], evidence.seed) for few in (evidence.target, evidence.others)]
    method = methods.get("sauce")
    learned = method.learn(evidence)
    [edit] = method.parts(evidence, learned, {"n": 2, "beta": -3.0, "gate": "image"})
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(4))
    f = sae.encode(x)
    for t in TIMESTEPS:
        difference = sums[0][t] - sums[1][t]
        new = f.clone()
        for i in difference.argsort(descending=True)[:2].tolist():
            if difference[i] > 0:
                new[..., i] = -3.0 * f[..., i]
        torch.testing.assert_close(edit.delta(x, t), (new - f) @ sae.W_dec, rtol=1e-4, atol=1e-4)
    assert edit.gate == "activation" and edit.half == "both"
    [open_] = method.parts(evidence, learned, {"n": 2, "beta": -3.0, "gate": "none"})
    assert open_.gate == "none" and torch.equal(open_.delta(x, 499), edit.delta(x, 499))
