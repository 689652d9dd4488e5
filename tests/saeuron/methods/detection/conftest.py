"""A sensor of the tiny pipeline, and a map that it gates."""

import pytest
import torch

from saeuron.methods.detection.sensor import sensors
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.part import WeightMap
from tests.saeuron.methods.detection.sensing import FIRST, evidence_at, probe_at, reached
from tests.saeuron.methods.removals import PATH


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return evidence_at(tiny_pipe, FIRST)


@pytest.fixture(scope="module")
def sensor(evidence, tiny_pipe):
    [found] = sensors(evidence, 3)
    return reached(found, tiny_pipe)


@pytest.fixture(scope="module")
def probed(tiny_pipe):
    """(probe at a late module, bool [images]: whether it opens)."""
    return probe_at(tiny_pipe, PATH)


@pytest.fixture(scope="module")
def plain(tiny_pipe):
    """A map of keys and values that is large enough to be seen."""
    chance = torch.Generator().manual_seed(0)
    up, down = torch.randn(32, 4, generator=chance), torch.randn(4, 32, generator=chance)
    return WeightMap(cross_attention(tiny_pipe), up, 0.3 * down)
