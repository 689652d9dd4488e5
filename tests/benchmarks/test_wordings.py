"""The gates of `benchmarks.removals.wordings`: which images a probe learns from, and which latents it reads."""

import torch

from benchmarks.removals.probes import LEARNED, dealt
from benchmarks.removals.wordings import fitted_probe

N = 6


def planted(latent: int) -> torch.Tensor:
    """max_q p and mean f of 30 images, [30, 2 N]: one latent is high, the others are noise."""
    generator = torch.Generator().manual_seed(latent)
    found = torch.rand(LEARNED, 2 * N, generator=generator)
    found[:, latent] += 5
    found[:, N + latent] += 5
    return found


TRAIN = {name: planted(i) for i, name in enumerate(("king", "cat", "moon", "star"))}


def test_others_are_dealt_in_turn_from_a_place_of_the_concepts_own():
    found = dealt("cat", ["king", "cat", "moon", "star"])
    assert found[:4] == [("moon", 0), ("star", 0), ("king", 0), ("moon", 1)]
    assert len(found) == len({*found}) == LEARNED


def test_a_probe_reads_the_latent_that_tells_its_concept():
    for i, name in enumerate(TRAIN):
        latents, weights, bias = fitted_probe(TRAIN, name, N)
        assert i in latents.tolist() and len(latents) == 2
        for other, seen in TRAIN.items():
            opened = seen[:, latents] @ weights + bias >= 0
            assert bool(opened.all()) == (other == name) and bool(opened.any()) == (other == name)
