"""Latents that name concepts: against a slow reference, on planted latents, and read from a pipeline."""

import random

import pytest
import torch

from saeuron.hooks import Step
from saeuron.sae.diagnosis.detection import Means, Strengths, auroc, detections


def slow(chosen, chosen_asked, judged, judged_asked, name):
    """(latent, theta, precision, recall, f1) by trying every latent and every threshold, one image at a time."""
    best = (0.0, -1, 0.0)
    for latent in range(len(chosen[0])):
        for theta in sorted({row[latent] for row in chosen}, reverse=True):
            if theta <= 0:
                continue
            named = [row[latent] >= theta for row in chosen]
            hits = sum(n and a == name for n, a in zip(named, chosen_asked, strict=True))
            f1 = 2 * hits / (sum(named) + sum(a == name for a in chosen_asked))
            if f1 > best[0] + 1e-6:
                best = (f1, latent, theta)
    _, latent, theta = best
    named = [row[latent] >= theta for row in judged]
    hits = sum(n and a == name for n, a in zip(named, judged_asked, strict=True))
    asks = sum(a == name for a in judged_asked)
    return latent, theta, hits / max(sum(named), 1), hits / asks, 2 * hits / (sum(named) + asks)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_latent_and_its_figures_are_those_of_a_slow_search(seed):
    chance = random.Random(seed)
    names = ["cat", "key", None, "moon"]

    def drawn(n):
        # Few distinct values, so that ties and silent latents are common.
        return [[float(chance.choice([0, 0, 0, 1, 2, 3])) for _ in range(70)] for _ in range(n)]

    chosen, judged = drawn(24), drawn(18)
    asked, judged_asked = [names[i % 4] for i in range(24)], [names[i % 4] for i in range(18)]
    found = detections(torch.tensor(chosen), asked, torch.tensor(judged), judged_asked)
    assert [d.concept for d in found] == ["cat", "key", "moon"]
    for d in found:
        latent, theta, precision, recall, f1 = slow(chosen, asked, judged, judged_asked, d.concept)
        assert (d.latent, d.threshold) == (latent, theta)
        assert (d.precision, d.recall, d.f1) == pytest.approx((precision, recall, f1))
        assert (d.positives, d.images) == (sum(a == d.concept for a in judged_asked), 18)


def test_auroc_counts_pairs():
    chance = random.Random(0)
    values, truth = [float(chance.randrange(4)) for _ in range(30)], [chance.random() < 0.4 for _ in range(30)]
    high = [v for v, t in zip(values, truth, strict=True) if t]
    low = [v for v, t in zip(values, truth, strict=True) if not t]
    expected = sum((h > v) + (h == v) / 2 for h in high for v in low) / (len(high) * len(low))
    assert auroc(torch.tensor(values), torch.tensor(truth)) == pytest.approx(expected)
    assert auroc(torch.tensor([1.0]), torch.tensor([True])) == 0.5


def test_a_planted_latent_is_found_and_shuffled_labels_find_none():
    generator = torch.Generator().manual_seed(0)
    asked = [("cat", "key", "moon", "fish")[i % 4] for i in range(400)]
    strength = torch.rand(400, 50, generator=generator)
    strength[:, 17] = torch.tensor([float(a == "moon") for a in asked]) + 0.1 * strength[:, 17]
    halves = strength[:200], asked[:200], strength[200:], asked[200:]
    moon = next(d for d in detections(*halves) if d.concept == "moon")
    assert moon.latent == 17 and moon.f1 > 0.95 and moon.auroc == 1
    shuffled = random.Random(1).sample(asked[200:], 200)
    by_chance = [d.f1 for d in detections(strength[:200], asked[:200], strength[200:], shuffled)]
    assert sum(by_chance) / len(by_chance) < 0.5 and max(by_chance) < 0.9


def test_a_silent_dictionary_names_nothing():
    found = detections(torch.zeros(4, 3), ["a", "b"] * 2, torch.zeros(4, 3), ["a", "b"] * 2)
    assert [(d.latent, d.f1, d.auroc) for d in found] == [(None, 0.0, 0.5)] * 2


def test_strengths_are_means_over_steps_of_maxima_over_positions():
    generator = torch.Generator().manual_seed(3)
    steps = [torch.randn(3, 5, 4, 4, generator=generator) for _ in range(2)]
    reader = Strengths({"double": lambda x: 2 * x, "first": lambda x: x[..., :1]})
    reader.start(2)
    for i, output in enumerate(steps):
        reader(Step(timestep=10 - i, index=i), output, None)
    reader.take()
    expected = sum(2 * output[:2].flatten(2).amax(2) for output in steps) / 2
    assert torch.allclose(reader.strengths("double"), expected)
    assert torch.allclose(reader.strengths("first"), expected[:, :1] / 2)


def test_directions_are_differences_of_means_and_neurons_are_coordinates_about_the_mean():
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(4, 3, 6, generator=generator)
    means = Means()
    means.start([["cat", "neon"], ["key"], ["cat"], []])
    means(Step(timestep=1, index=0), rows, None)
    assert torch.allclose(means.mean, rows.mean((0, 1)), atol=1e-6)
    d = rows[[0, 2]].mean((0, 1)) - rows[[1, 3]].mean((0, 1))
    projected = means.supervised(["cat", "key"])(rows)
    assert torch.allclose(projected[..., 0], (rows - rows.mean((0, 1))) @ (d / d.norm()), atol=1e-5)
    x = rows - rows.mean((0, 1))
    assert torch.allclose(means.neurons()(rows), torch.cat([x, -x], -1), atol=1e-6)
