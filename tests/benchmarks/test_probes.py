"""The probes that `benchmarks.removals` compares: which images they learn from, and which latents they read."""

import torch

from benchmarks.removals.probes import LEARNED, dealt, fitted, strongest

N = 6


def planted(latent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """max_q p and mean f of 30 images, [30, N] each: one latent is high, the others are noise."""
    generator = torch.Generator().manual_seed(latent)
    p, f = torch.rand(2, LEARNED, N, generator=generator)
    p[:, latent] += 5
    f[:, latent] += 5
    return p, f


TRAIN = {name: planted(i) for i, name in enumerate(("king", "cat", "moon", "star"))}


def test_others_are_dealt_in_turn_from_a_place_of_the_concepts_own():
    found = dealt("cat", ["king", "cat", "moon", "star"])
    assert found[:4] == [("moon", 0), ("star", 0), ("king", 0), ("moon", 1)]
    assert len(found) == len({*found}) == LEARNED


def test_a_probe_reads_the_latent_that_tells_its_concept():
    for i, name in enumerate(TRAIN):
        latents, weights, bias = fitted(name, TRAIN, 2, strongest)
        assert i in latents.tolist() and len(latents) == 2
        for other, (seen, _) in TRAIN.items():
            opened = seen[:, latents] @ weights + bias >= 0
            assert bool(opened.all()) == (other == name) and bool(opened.any()) == (other == name)
