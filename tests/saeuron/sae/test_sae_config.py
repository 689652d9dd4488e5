"""Sizes of an SAE and of its training, and what is refused before anything is trained."""

import pytest

from saeuron.errors import ConfigError
from saeuron.sae.config import SAEConfig
from saeuron.sae.training import Trainer


def test_more_active_latents_than_there_are():
    with pytest.raises(ConfigError, match=r"train\.k is 49, but an SAE at h has 48 latents \(6 x 8\); lower"):
        Trainer(SAEConfig(variant="topk", expansion=6, k=49), 8, "h")


def test_an_sae_may_have_fewer_latents_than_dimensions():
    config = SAEConfig(variant="topk", expansion=0.5, k=2, batch=16, steps=3)
    trainer = Trainer(config, 9, "h")
    assert (trainer.n_latents, trainer.sae.info.n_latents, trainer.sae.W_dec.shape) == (4, 4, (4, 9))
    assert SAEConfig(expansion=4.0).model_dump_json() == SAEConfig(expansion=4).model_dump_json()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "wide", None])
def test_an_expansion_that_is_no_number_above_0_is_refused(value):
    with pytest.raises(ValueError, match=r"expansion\n.*expected a number above 0"):
        SAEConfig(expansion=value)


@pytest.mark.parametrize("share", ["rows", "latents"])
def test_rows_and_latents_that_processes_cannot_divide_evenly_are_refused(share):
    three = {"processes": 3, "share": share, "variant": "topk", "batch": 32, "expansion": 5}
    if share == "rows":
        with pytest.raises(ValueError, match=r"train\.batch is 32; expected a multiple of train\.processes, 3"):
            SAEConfig(**three)
        SAEConfig(**{**three, "batch": 33})
    else:
        with pytest.raises(
            ConfigError, match=r"train\.expansion \* D is 40 at h: expected a multiple of .*processes, 3"
        ):
            SAEConfig(**three).check(8, "h")
        assert SAEConfig(**three).check(9, "h") == 45
