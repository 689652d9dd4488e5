"""SAEs whose decoder, or all of which, stays as it was drawn: the controls of a trained one."""

import numpy as np
import pytest
import torch

from saeuron.sae.config import CALIBRATION, SAEConfig
from saeuron.sae.losses import geometric_median
from saeuron.sae.streams import Labelled
from saeuron.sae.training import Trainer, quality, train
from saeuron.sae.variants import VARIANTS

WIDTH, K = 8, 4
CONFIG = SAEConfig(expansion=4, k=K, batch=64, steps=25, lr=1e-2)
DATA = np.random.default_rng(0).normal(size=(30, 64, WIDTH)).astype(np.float32)


def stream(start):
    yield from DATA[start:]


CONCEPTS = {"style": ("dots", "neon")}


def told(start):
    """The same with labels, for variants that learn from them."""
    for rows in DATA[start:]:
        yield Labelled(rows, (rows[:, :1] > 0).astype(np.int64))


def fitted(tmp_path, dictionary, variant="batch_topk", **settings):
    config = CONFIG.model_copy(update={"variant": variant, **settings}).learning(dictionary)
    start = Trainer(config, WIDTH, "h", concepts=CONCEPTS)
    start.initialise(torch.tensor(DATA[0]))
    given = told if config.needs_labels else stream
    return start.sae, train(config, given, WIDTH, "h", checkpoint=tmp_path / dictionary, concepts=CONCEPTS)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_frozen_decoder_stays_bit_for_bit_while_the_encoder_learns(tmp_path, variant):
    start, trainer = fitted(tmp_path, "frozen", variant)
    trained, sae = fitted(tmp_path, "trained", variant)[1].sae, trainer.sae
    assert torch.equal(sae.W_dec, start.W_dec) and not torch.equal(trained.W_dec, start.W_dec)
    assert not torch.equal(sae.W_enc, start.W_enc) and not torch.equal(sae.b_dec, start.b_dec)
    assert trainer.step_index == CONFIG.steps


def test_a_frozen_decoder_costs_reconstruction_and_training_an_encoder_gains_it(tmp_path):
    def fvu(dictionary):
        return quality(fitted(tmp_path, dictionary, "topk")[1].sae, (torch.tensor(x) for x in DATA)).fvu

    assert fvu("trained") < fvu("frozen") < fvu("untrained")


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_untrained_sae_keeps_every_weight_as_it_was_drawn(tmp_path, variant):
    start, trainer = fitted(tmp_path, "untrained", variant)
    sae = trainer.sae
    assert trainer.step_index == CALIBRATION
    for name in ("W_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(sae, name), getattr(start, name)), name
    torch.testing.assert_close(sae.b_dec, geometric_median(torch.tensor(DATA[0])))
    if variant != "ra_sae":  # Its decoder is drawn among the rows, without unit norm.
        assert torch.equal(sae.W_enc, sae.W_dec)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(len(sae.W_dec)))


@pytest.mark.parametrize("variant", ["topk", "batch_topk", "jumprelu", "matryoshka"])
def test_an_untrained_sae_fires_as_often_as_k_says(tmp_path, variant):
    sae = fitted(tmp_path, "untrained", variant)[1].sae
    assert quality(sae, (torch.tensor(x) for x in DATA)).l0 == pytest.approx(K, rel=0.1)


def test_an_interrupted_frozen_training_ends_with_the_same_bytes(tmp_path):
    config = CONFIG.learning("frozen")
    half = Trainer(config, WIDTH, "h")
    half.initialise(torch.tensor(DATA[0]))
    for rows in DATA[:10]:
        half.step(torch.tensor(rows))
    half.save(tmp_path / "checkpoint")
    resumed = train(config, stream, WIDTH, "h", checkpoint=tmp_path / "checkpoint").sae
    for name, value in fitted(tmp_path, "frozen")[1].sae.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_an_untrained_sae_depends_on():
    """Not on how others are trained: another learning rate needs no other control."""
    plain, untrained, frozen = (CONFIG.learning(d) for d in ("trained", "untrained", "frozen"))
    assert plain == CONFIG and "dictionary" not in plain.identity
    assert len({str(c.identity) for c in (plain, untrained, frozen)}) == 3
    other = CONFIG.model_copy(update={"lr": 0.5, "steps": 99, "warmup": 7, "schedule": "cosine"})
    assert other.learning("untrained").identity == untrained.identity
    assert other.learning("frozen").identity != frozen.identity
    for changed in ({"k": 3}, {"expansion": 3}, {"seed": 1}, {"variant": "topk"}, {"batch": 32}):
        assert CONFIG.model_copy(update=changed).learning("untrained").identity != untrained.identity
