"""Discrete codes: what they are made from, a planted head, and labels that say nothing; ranks by slow formulas."""

import itertools

import numpy as np
import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.generation import generate, requests
from saeuron.hooks import attached
from saeuron.inspection.codes import NONE, contributions, learn, scores, shuffled
from saeuron.inspection.heads import heads, output_weights
from saeuron.inspection.ranks import auc, ranks, resampled, spearman, top_quarter
from saeuron.prompts import Prompt


def test_contributions_are_the_mean_of_each_third(tiny_pipe):
    model = ModelConfig(steps=4, guidance=2.0, micro_batch=2)
    images = requests([Prompt("A cat.", "test"), Prompt("A moon.", "test"), Prompt("A star.", "test")], 1)
    found = heads(tiny_pipe)
    c = contributions(tiny_pipe, images, found, model, 5)
    head, seen = found[3], []
    with attached(tiny_pipe, readers={head.part.hookpoint: lambda s, z, _: seen.append((s.index, z.chunk(2)[1]))}):
        for _ in generate(tiny_pipe, images[:2], model, 5):
            pass
    weight = output_weights(tiny_pipe, head)
    for third, steps in enumerate([(0, 1), (2,), (3,)]):
        z = torch.stack([z[:2, :, head.part.start : head.part.stop] for i, z in seen if i in steps]).mean((0, 2))
        assert torch.allclose(c[3][:2, third], z @ weight.T, atol=1e-5)
    assert [len(each) for each in c] == [3] * len(found)


def planted(examples: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Four heads of width 6; the third points one way with the concept and another without, the others do not care."""
    chance = torch.Generator().manual_seed(seed)
    positive = torch.arange(examples) < examples // 2
    c = [torch.randn(examples, 3, 6, generator=chance) * 0.1 + torch.eye(6)[h] for h in range(4)]
    c[2] = c[2] + 3 * torch.where(positive[:, None, None], torch.eye(6)[4], torch.eye(6)[5])
    return c, positive


def test_a_planted_head_has_codes_of_its_own():
    c, positive = planted(10, 0)
    codes = learn(c, steps=200)
    fresh, positive = planted(40, 1)
    found = scores(codes, fresh, positive)
    assert found.share.argmax() == 2 and found.share[2] > 0.9 and found.difference.argmax() == 2
    chance = scores(codes, fresh, shuffled(positive, 0))
    assert chance.share[2] < 0.2
    # By a slow count.
    for h, each in enumerate(fresh):
        of = codes.of(each)
        own = [{int(v) for v in of[positive, t]} - {int(v) for v in of[~positive, t]} for t in range(3)]
        assert found.codes[h] == sum(map(len, own))
    assert codes.of(torch.full((1, 6), float("nan"))).item() == NONE


def test_ranks_by_slow_formulas():
    a, b = np.array([0.1, 0.5, 0.5, 0.9, 0.2]), np.array([1.0, 3.0, 2.0, 3.0, 0.0])
    assert ranks(a).tolist() == [1, 3.5, 3.5, 5, 2]
    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1])
    assert spearman(a, np.ones(5)) is None
    positive = np.array([False, True, False, True, False])
    pairs = itertools.product(b[positive], b[~positive])
    assert auc(b, positive) == np.mean([(p > n) + 0.5 * (p == n) for p, n in pairs])
    assert auc(b, np.zeros(5, bool)) is None
    assert top_quarter(range(8)).tolist() == [False] * 6 + [True] * 2 and top_quarter([3, 3]).tolist() == [True, False]
    low, high = resampled(a, b, spearman, 0)
    assert low <= spearman(a, b) <= high and resampled(a, b, spearman, 0) == (low, high)
    assert resampled(a, np.ones(5), spearman) == (None, None)
