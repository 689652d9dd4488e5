"""What tests of sensors and probes share: pictures, what modules see, and where one fires by hand."""

from dataclasses import replace

import numpy as np
import torch

from saeuron.config import ModelConfig
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.methods.base import Evidence
from saeuron.methods.detection.gated_uce import GatedMap
from saeuron.methods.detection.probe import reading
from saeuron.methods.removal import Removal, removed
from saeuron.prompts import Prompt
from tests.saeuron.methods.removals import TIMESTEPS, T, random_profile, random_sae

MODEL = ModelConfig(steps=4, guidance=2.0, micro_batch=8)
FIRST = "unet.conv_in"
"""A hookpoint before every cross-attention: what it sees counts for all of the step."""
ASKED = requests([Prompt("A cat in neon style.", "test"), Prompt("A star.", "test")], 2)


def images(pipe, *removals, wanted=ASKED, model=MODEL):
    with removed(pipe, removals) as about:
        return np.concatenate([made for _, made in generate(pipe, wanted, model, 5, extra=about.call)])


def rows_at(pipe, hookpoint):
    """[(timestep, output of the conditional half)] of a generation."""
    seen = []

    def read(step, output, source):
        seen.append((step.timestep, step.half(output, "conditional").clone()))

    with attached(pipe, readers={hookpoint: read}):
        list(generate(pipe, ASKED, MODEL, 5))
    return seen


def evidence_at(pipe, hookpoint):
    sae = random_sae(width=16, n=64, hookpoint=hookpoint)
    target, others = (
        requests([Prompt(f"A cat in {style} style.", "train", {"style": style})], count)
        for style, count in (("neon", 2), ("dots", 5))
    )
    return Evidence(
        "neon", "style", (hookpoint,), "both", {hookpoint: sae}, {hookpoint: "s"},
        {hookpoint: random_profile(n=64)}, pipe, MODEL, target, others,
        [target[0].prompt], [others[0].prompt], 1,
    )  # fmt: skip


def between(values, share):
    """A number that is none of the values, with about that share of the different ones below it."""
    different = values.unique()
    at = int(share * (len(different) - 1))
    return different[at : at + 2].mean()


def reached(sensor, pipe):
    """The sensor with floors that some positions reach, and tau that one image reaches, at the two middle steps."""
    seen = dict(rows_at(pipe, sensor.hookpoint))
    floor, tau = sensor.floor.clone(), torch.full((T,), torch.inf)
    for i, t in enumerate(TIMESTEPS):
        rows = seen[t].flatten(2).transpose(1, 2)
        f = sensor.encode(rows)
        for u in range(floor.shape[1]):
            if torch.isfinite(floor[i, u]):
                floor[i, u] = between(f[..., u], 0.8)
        if 0 < i < T - 1:
            tau[i] = between(sensor.gated(rows, t)[1], 0.99)
    return replace(sensor, floor=floor, gate="activation", tau=tau)


def probe_at(pipe, hookpoint, share=0.5):
    """A probe of four latents with weights of both signs, open for about 1 - share of the images asked for.

    Returns:
        (probe, bool [images]: whether it opens by hand).
    """
    sae = random_sae(width=16, n=64, hookpoint=hookpoint)
    probe = replace(reading(sae, torch.arange(64) % 16 == 3, "s"), weights=torch.linspace(1.0, -0.5, 4))
    heights = torch.tensor(
        [
            sum(
                float(w) * max(pre_activation(sae, i, image[:, y, x]) for y, x in places(image))
                for i, w in zip(probe.latents.tolist(), probe.weights, strict=True)
            )
            for image in rows_at(pipe, hookpoint)[0][1][: len(ASKED)]
        ]
    )
    bias = -float(between(heights, share))
    opened = heights + bias >= 0
    assert 0 < opened.sum() < len(ASKED)
    return replace(probe, bias=bias), opened


def pre_activation(sae, latent, row):
    return float(((row - sae.b_dec) * sae.W_enc[latent]).sum() + sae.b_enc[latent])


def places(image):
    return [(y, x) for y in range(image.shape[1]) for x in range(image.shape[2])]


def shut(probe):
    """The same probe, which opens for nothing."""
    return replace(probe, bias=-1e9)


def uce(plain, *probes):
    part = GatedMap(probes, plain.layers, plain.up, plain.down)
    return Removal("neon", "style", "gated_uce", {}, (part,))


def by_hand(sensor, rows, t):
    """Where the sensor fires: (bool [B, h, w] by position, bool [B] by image), of maps [B, D, h, w]."""
    i = TIMESTEPS.index(t)
    fires = torch.zeros(len(rows), *rows.shape[2:], dtype=torch.bool)
    opened = []
    for b, image in enumerate(rows):
        height = 0.0
        for y in range(rows.shape[2]):
            for x in range(rows.shape[3]):
                f = sensor.encode(image[:, y, x][None])[0]
                chosen = [u for u in range(len(f)) if torch.isfinite(sensor.floor[i, u])]
                fires[b, y, x] = any(bool(f[u] > sensor.floor[i, u]) for u in chosen)
                height = max(height, sum(float(f[u]) for u in chosen))
        opened.append(height >= float(sensor.tau[i]))
    return fires, torch.tensor(opened)
