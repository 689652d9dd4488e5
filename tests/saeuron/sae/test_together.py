"""Several SAEs on one stream of rows, and what enters an SAE's identity."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from saeuron.errors import SaeuronError
from saeuron.sae.config import SAEConfig, TopKOptions
from saeuron.sae.streams import ahead, tensor_of
from saeuron.sae.training import Trainer, together, train

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
    assert resumed.step_index in (13, 26)
    together([resumed], stream, {})
    assert torch.equal(resumed.variant.W_dec, alone[1].variant.W_dec)


def test_hookpoints_on_one_stream_end_as_they_would_alone(tmp_path):
    rows = {"one": DATA, "two": DATA[:, :, :4] * 3}

    def both(start):
        for i in range(start, len(DATA)):
            yield {hookpoint: data[i] for hookpoint, data in rows.items()}

    found = [Trainer(SMALL, 8, "one"), Trainer(changed(variant="batch_topk"), 4, "two")]
    for trainer in found:
        trainer.initialise(tensor_of(rows[trainer.hookpoint][0]))
    together(found, both, {})
    for trainer in found:
        data = rows[trainer.hookpoint]
        path = tmp_path / trainer.hookpoint
        alone = train(
            trainer.config, lambda start, data=data: iter(data[start:]), trainer.variant.width, "", checkpoint=path
        )
        assert torch.equal(trainer.variant.W_dec, alone.variant.W_dec) and trainer.history == alone.history
    with pytest.raises(SaeuronError, match="no rows of 'three'; expected one of one, two"):
        together([Trainer(SMALL, 8, "three")], both, {})


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_sent_ahead_keep_their_order_and_are_waited_for(monkeypatch, count):
    """Torch's CUDA by its names alone: what was done, in order."""
    done = []

    class Stream:
        def __init__(self, device):
            self.sent = 0

        def record_event(self):
            self.sent += 1
            return self.sent

        def wait_event(self, event):
            done.append(f"waits {event}")

    def sends(tensor, device, non_blocking):
        assert str(device) == "cuda:0" and non_blocking and tensor.pinned
        done.append(f"sends {int(tensor[0]) + 1}")
        return tensor

    def pins(tensor):
        tensor.pinned = True
        return tensor

    here = Stream("cuda")
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: here)
    monkeypatch.setattr("torch.Tensor.pin_memory", pins)
    monkeypatch.setattr("torch.Tensor.record_stream", lambda tensor, stream: done.append(f"keeps {stream is here}"))
    monkeypatch.setattr("torch.Tensor.to", sends)
    batches = ({"h": torch.tensor([i])} for i in range(count))
    for batch in ahead(batches, torch.device("cuda:0")):
        done.append(f"works {int(batch['h'][0]) + 1}")
    first = [f"sends {i + 1}" for i in range(min(count, 1))]
    each = [
        [*([f"sends {i + 1}"] if i < count else []), f"waits {i}", "keeps True", f"works {i}"]
        for i in range(1, count + 1)
    ]
    assert done == first + [word for words in each for word in words]


@pytest.mark.parametrize(
    "variant", ["topk", "batch_topk", "abs_topk", "jumprelu", "gated", "top_afa", "vsae", "gba", "ra_sae"]
)
def test_normalized_training_is_the_same_at_every_scale(tmp_path, variant):
    """FVU and latents, and the SAE that comes of it takes the activations as they are."""
    config = changed(variant=variant, normalize=True, inference="native", auxk_alpha=0)
    fvus, codes = [], []
    for scale in (2.0**-7, 1.0, 2.0**7):
        data = DATA.astype(np.float32) * scale
        trainer = train(
            config, lambda start, data=data: iter(data[start:]), WIDTH, "", checkpoint=tmp_path / f"{scale}"
        )
        x = torch.from_numpy(data[-1])
        factor = trainer.factor
        assert factor == pytest.approx(8**0.5 / (x - trainer.sae.b_dec).norm(dim=1).mean().item(), rel=0.15)
        sae = trainer.sae
        fvus.append(float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()))
        codes.append(sae.encode(x) / scale)
        # Of scaled rows the variant gives the same, scaled.
        plain = trainer.variant.export("")
        torch.testing.assert_close(sae(x), plain(x * factor) / factor, rtol=1e-4, atol=1e-5 * scale)
        resumed = Trainer(config, WIDTH, "")
        trainer.save(tmp_path / "saved")
        resumed.load(tmp_path / "saved")
        assert resumed.factor == factor
    assert fvus == pytest.approx([fvus[0]] * 3, rel=1e-4)
    for found in codes[1:]:
        torch.testing.assert_close(found, codes[0], rtol=1e-3, atol=1e-3)


def test_without_it_the_scale_matters(tmp_path):
    ends = [
        train(SMALL, lambda start, s=s: iter(DATA[start:] * s), WIDTH, "", checkpoint=tmp_path / f"{s}").history[-1].fvu
        for s in (2.0**-7, 1.0)
    ]
    assert abs(ends[0] - ends[1]) > 0.01
    assert "normalize" not in SMALL.identity and changed(normalize=True).identity["normalize"] is True


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
