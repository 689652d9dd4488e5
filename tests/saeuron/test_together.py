"""Several SAEs on one stream of rows, and what enters an SAE's identity."""

import numpy as np
import pytest
import torch

from saeuron.config import SAEConfig, TopKOptions
from saeuron.errors import SaeuronError
from saeuron.sae_training import Trainer, tensor_of, together, train

WIDTH = 8
SMALL = SAEConfig(variant="topk", expansion=6, k=2, batch=32, steps=30, lr=1e-2, dead_rows=64, checkpoint_every=13)
DATA = np.random.default_rng(0).normal(size=(40, 32, WIDTH)).astype(np.float16)


def stream(start):
    yield from DATA[start:]


def changed(**changes):
    return SMALL.model_copy(update=changes)


def test_each_ends_as_it_would_alone(tmp_path):
    configs = [SMALL, changed(variant="batch_topk", k=3), changed(expansion=9, steps=21), changed(seed=5)]
    alone = [train(c, stream, WIDTH, "h", checkpoint=tmp_path / f"alone{i}") for i, c in enumerate(configs)]
    read = []

    def counted(start):
        for batch in stream(start):
            read.append(batch)
            yield batch

    trainers = [Trainer(c, WIDTH, "h") for c in configs]
    for trainer in trainers:
        trainer.initialise(tensor_of(DATA[0]))
    points = []
    together(trainers, counted, {1: tmp_path / "saved"}, report=lambda i, point: points.append((i, point)))
    # What each would read for itself is read once.
    assert len(read) == 30
    for one, other in zip(trainers, alone, strict=True):
        assert one.history == other.history
        assert all(torch.equal(a, b) for a, b in zip(one.variant.parameters(), other.variant.parameters(), strict=True))
    assert [point for i, point in points if i == 2] == alone[2].history
    resumed = Trainer(configs[1], WIDTH, "h")
    resumed.load(tmp_path / "saved")
    assert resumed.step_index == 26
    together([resumed], stream, {})
    assert torch.equal(resumed.variant.W_dec, alone[1].variant.W_dec)


def test_they_stand_at_one_step_and_take_one_size_of_batch():
    ahead = Trainer(SMALL, WIDTH, "")
    ahead.step(tensor_of(DATA[0]))
    with pytest.raises(SaeuronError, match=r"steps \{0, 1\}"):
        together([ahead, Trainer(SMALL, WIDTH, "")], stream, {})
    with pytest.raises(SaeuronError, match=r"batches \{16, 32\}"):
        together([Trainer(changed(batch=16), WIDTH, ""), Trainer(SMALL, WIDTH, "")], stream, {})


def test_rows_of_bfloat16_are_stored_as_their_bits():
    rows = torch.randn(4, 3).bfloat16()
    assert torch.equal(tensor_of(rows.view(torch.uint16).numpy()), rows)
    assert torch.equal(tensor_of(DATA[0]), torch.from_numpy(DATA[0]))
    bits = torch.from_numpy(DATA.astype(np.float32)).bfloat16()
    found = Trainer(changed(steps=1), WIDTH, ""), Trainer(changed(steps=1), WIDTH, "")
    together([found[0]], lambda start: iter([bits[0].view(torch.uint16).numpy()]), {})
    together([found[1]], lambda start: iter([bits[0].float().numpy()]), {})
    assert torch.equal(found[0].variant.W_dec, found[1].variant.W_dec)


def test_an_encoder_product_in_bfloat16_trains_as_well():
    ends = {}
    for precision in ("float32", "bfloat16"):
        config = changed(precision=precision, steps=40, expansion=16)
        trainer = Trainer(config, WIDTH, "", path="fast")
        together([trainer], stream, {})
        ends[precision] = trainer.history[-1].fvu
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.03)
    assert ends["bfloat16"] != ends["float32"]


def test_the_options_of_other_variants_do_not_enter_the_identity():
    multi = TopKOptions(multi=0.5)
    assert changed(topk=multi).identity != SMALL.identity
    batch = changed(variant="batch_topk")
    assert batch.model_copy(update={"topk": multi}).identity == batch.identity
    assert changed(checkpoint_every=7).identity == SMALL.identity
    assert changed(lr=0.1).identity != SMALL.identity
