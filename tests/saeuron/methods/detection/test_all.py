"""What all methods that look with an SAE keep to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.methods.detection.sae_guidance import GuidanceMask
from saeuron.methods.removal import Removal, removed
from tests.saeuron.methods.detection.sensing import (
    ASKED,
    images,
    shut,
    uce,
)


def made(kind, sensor, probe, plain):
    if kind == "image":
        return uce(plain, probe)
    return Removal("c", "d", "sae_guidance", {}, (GuidanceMask((sensor,), 1.0),))


@pytest.mark.parametrize("kind", ["image", "guidance"])
def test_where_nothing_fires_pictures_are_the_same_bit_for_bit(sensor, probed, plain, tiny_pipe, kind):
    silent = replace(sensor, floor=torch.full_like(sensor.floor, torch.inf))
    nothing = made(kind, silent, shut(probed[0]), plain)
    np.testing.assert_array_equal(images(tiny_pipe, nothing), images(tiny_pipe))
    removal = made(kind, sensor, probed[0], plain)
    assert (images(tiny_pipe, removal) != images(tiny_pipe)).any()
    assert removal.at(0).parts == ()


@pytest.mark.parametrize("kind", ["image", "guidance"])
def test_pictures_depend_on_no_neighbour_and_files_come_back(sensor, probed, plain, tiny_pipe, kind, tmp_path):
    removal = made(kind, sensor, probed[0], plain)
    together = images(tiny_pipe, removal)
    alone = np.concatenate([images(tiny_pipe, removal, wanted=[each]) for each in ASKED[::-1]])[::-1]
    np.testing.assert_array_equal(together, alone)
    removal.save(tmp_path / "r")
    again = Removal.load(tmp_path / "r")
    again.save(tmp_path / "s")
    assert (tmp_path / "r").read_bytes() == (tmp_path / "s").read_bytes()
    np.testing.assert_array_equal(images(tiny_pipe, again), together)
    with removed(tiny_pipe, [removal]):
        # Another number of steps, and no trace of the generation before.
        other = images(tiny_pipe, model=ModelConfig(steps=1, guidance=2.0, micro_batch=8))
    np.testing.assert_array_equal(other, images(tiny_pipe, removal, model=ModelConfig(steps=1, guidance=2.0)))


@pytest.mark.parametrize(
    ("method", "setting", "value", "error", "says"),
    [
        ("gated_uce", "n", 0, ConfigError, "n holds 0"),
        ("gated_uce", "erase", -1, ConfigError, "erase holds -1"),
        ("sae_guidance", "n", 1.5, ConfigError, r"n holds 1.5"),
        ("sae_guidance", "push", -0.5, ConfigError, r"push holds -0.5"),
        ("sauce", "beta", 1, ConfigError, "beta holds 1"),
        ("sauce", "gate", "position", UnknownName, "unknown gate 'position'"),
    ],
)
def test_bad_settings_are_refused_by_name(method, setting, value, error, says):
    with pytest.raises(error, match=says):
        methods.get(method).candidates({setting: (value,)})
