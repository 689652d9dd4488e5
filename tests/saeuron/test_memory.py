"""Full memory: the micro-batch is halved, said, remembered, and changes neither content nor sums."""

import copy
import warnings

import numpy as np
import pytest
import torch

from saeuron import memory
from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import FullMemory, NoRoom, UserError
from saeuron.generation import generate, requests
from saeuron.memory import LANES, full, halve, same_bits
from saeuron.methods.supervised import Moments
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.gathering import Reader
from saeuron.scoring import Accumulator, counting, gather

PROMPTS = [Prompt(t, "test") for t in ("A cat.", "A star in neon style.", "The boat.", "A house.")]
HOOKPOINT = "unet.up_blocks.1.attentions.1"
FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB of which 1.00 GiB is free."
)


@pytest.fixture
def small(tiny_pipe):
    """A function that gives the pipeline room for so many images: it fails in the second step, as memory fills up."""
    calls = {"now": 0, "all": 0, "failed": []}

    def room(images, error=None):
        def before(module, args, kwargs):
            rows = args[0].shape[0] // 2
            calls["now"] = calls["now"] + 1 if calls.get("rows") == rows else 1
            calls["rows"], calls["all"] = rows, calls["all"] + 1
            if rows > images and calls["now"] == 2:
                calls["rows"] = None
                calls["failed"].append(rows)
                raise error or torch.OutOfMemoryError(FULL)

        handles.append(tiny_pipe.unet.register_forward_pre_hook(before, with_kwargs=True))
        return calls

    handles = []
    yield room
    for handle in handles:
        handle.remove()
    vars(tiny_pipe).pop("_saeuron_fits", None)


def model(micro_batch):
    return ModelConfig(steps=3, guidance=2.0, micro_batch=micro_batch)


def drawn(pipe, wanted, micro_batch, **more):
    return {
        r.key: picture
        for batch, made in generate(pipe, wanted, model(micro_batch), seed=5, **more)
        for r, picture in zip(batch, made, strict=True)
    }


@pytest.mark.parametrize(("micro_batch", "room", "tried", "sizes"), [
    (16, 8, [16], [8, 8, 8]),
    (16, 5, [16, 8], [4] * 6),
    (24, 9, [24], [8, 8, 8]),
    (4, 1, [4, 2], [1] * 24),
    (3, 1, [3], [1] * 24),
])  # fmt: skip
def test_the_batch_is_halved_until_it_fits_and_that_is_remembered(tiny_pipe, small, micro_batch, room, tried, sizes):
    wanted = requests(PROMPTS, 6)
    calls = small(room)
    with pytest.warns(FullMemory) as said:
        found = [len(batch) for batch, _ in generate(tiny_pipe, wanted, model(micro_batch), seed=5)]
    assert calls["failed"] == tried and found == sizes
    assert len(said) == len(tried)
    assert str(said[0].message).startswith(f"memory is full with {micro_batch} images at once; going on with ")
    assert "\n" not in str(said[0].message)
    # The next images do not try again, and nothing more is said.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert next(len(b) for b, _ in generate(tiny_pipe, wanted[:9], model(micro_batch), seed=5)) == sizes[0]
    assert calls["failed"] == tried


def test_images_in_smaller_multiples_of_eight_are_the_same_bits(tiny_pipe, small):
    wanted = requests(PROMPTS, 6)
    before = drawn(tiny_pipe, wanted, 24)
    small(8)
    with pytest.warns(FullMemory) as said:
        after = drawn(tiny_pipe, wanted, 24)
    assert [*before] == [*after]
    assert all((before[key] == after[key]).all() for key in before)
    assert "rounding" not in str(said[0].message)
    assert same_bits(tiny_pipe, 8, 24) and same_bits(tiny_pipe, 3, 3)


def test_below_eight_they_differ_by_rounding_and_it_is_said(tiny_pipe, small):
    wanted = requests(PROMPTS, 4)
    before = drawn(tiny_pipe, wanted, 16)
    small(2)
    with pytest.warns(FullMemory) as said:
        after = drawn(tiny_pipe, wanted, 16)
    assert max(np.abs(before[key].astype(int) - after[key]).max() for key in before) <= 1
    assert [str(w.message).endswith("; images may differ by rounding from those of full batches") for w in said] == [
        False, True, True,
    ]  # fmt: skip
    assert not same_bits(tiny_pipe, 2, 16) and not same_bits(tiny_pipe, 4, 8)


def test_what_is_on_a_device_promises_no_bits(tiny_pipe):
    elsewhere = copy.copy(tiny_pipe)
    elsewhere.register_modules(vae=torch.nn.Linear(2, 2, device="meta"))
    assert not same_bits(elsewhere, 8, 16)


def test_statistics_count_each_image_once(tiny_pipe, small):
    """The attempt that failed has read a step already: its sums are undone."""
    torch.manual_seed(0)
    sae = SAE(SAEInfo("topk", 16, 64, 4, HOOKPOINT)).requires_grad_(False)
    wanted = requests(PROMPTS, 5)[:19]

    def sums():
        [found] = gather(tiny_pipe, [(HOOKPOINT, Accumulator(sae, "conditional"))], wanted, model(16), 5)
        return found

    before = sums()
    small(8)
    with pytest.warns(FullMemory):
        after = sums()
    assert before.n_images.tolist() == [19] * 3
    for name, of_before, of_after in zip(before._fields, before, after, strict=True):
        assert np.array_equal(of_before, of_after), name


def test_a_reader_of_another_kind_is_undone_as_well(tiny_pipe, small):
    wanted = requests(PROMPTS, 4)

    def read():
        reader = Moments()
        with memory_attached(tiny_pipe, reader):
            for _ in generate(tiny_pipe, wanted, model(16), 5, begin=counting([reader])):
                pass
        return reader

    before = read()
    small(8)
    with pytest.warns(FullMemory):
        after = read()
    assert before.count == after.count and len(before.count) == 3
    assert all(torch.allclose(before.products[t], after.products[t], rtol=1e-6) for t in before.count)


def test_maps_over_thirds_are_those_of_one_attempt(tiny_pipe, small):
    """The attempt that failed has added a step to them already; two micro-batches follow in its place."""
    torch.manual_seed(0)
    sae = SAE(SAEInfo("topk", 16, 64, 4, HOOKPOINT)).requires_grad_(False)
    wanted = requests(PROMPTS, 4)

    def examples():
        reader = Reader(tiny_pipe, sae, wanted, 3, DiagnosisConfig(images=16, rows=32, examples=5))
        for _ in reader.over(tiny_pipe, model(16)):
            pass
        return reader.gathered().examples

    before = examples()
    small(8)
    with pytest.warns(FullMemory):
        after = examples()
    assert len(before.thirds) == len(after.thirds) == 3 and all(third.any() for third in before.thirds)
    assert torch.equal(before.image, after.image) and torch.equal(before.heat, after.heat)
    assert torch.equal(torch.stack(before.thirds), torch.stack(after.thirds))


def memory_attached(pipe, reader):
    from saeuron.hooks import attached

    return attached(pipe, readers={HOOKPOINT: reader})


def test_captured_rows_are_those_of_the_images_they_stand_beside(tiny_pipe, small):
    wanted, config = requests(PROMPTS, 3), CaptureConfig(positions=5)

    def rows():
        return {
            r.key: (steps[HOOKPOINT], arrays[HOOKPOINT])
            for r, steps, arrays, _ in capture(tiny_pipe, wanted, [HOOKPOINT], model(16), config)
        }

    before = rows()
    small(8)
    with pytest.warns(FullMemory):
        after = rows()
    assert [*before] == [*after] == [r.key for r in wanted]
    for key in before:
        assert before[key][0] == after[key][0] and np.array_equal(before[key][1], after[key][1])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(FULL),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_one_image_that_does_not_fit_is_one_line(tiny_pipe, small, error):
    small(0, error)
    with pytest.raises(NoRoom) as caught, pytest.warns(FullMemory):
        drawn(tiny_pipe, requests(PROMPTS, 1), 2)
    assert isinstance(caught.value, UserError)  # exit code 2, and no retry
    message = str(caught.value)
    assert message.startswith("memory is full with one image at a time (") and "\n" not in message
    assert "model.dtype float16" in message and "what was finished is kept" in message and len(message) < 330


def test_another_error_is_not_taken_for_it(tiny_pipe, small):
    small(0, RuntimeError("The size of tensor a (16) must match the size of tensor b (32)"))
    with pytest.raises(RuntimeError, match="must match"):
        drawn(tiny_pipe, requests(PROMPTS, 1), 4)
    assert not full(ValueError("out of memory")) and full(torch.OutOfMemoryError("x"))


def test_halves_are_multiples_of_eight_where_they_can_be(tiny_pipe):
    found = []
    size = 100
    with pytest.warns(FullMemory):
        while size > 1:
            halve(tiny_pipe, size, torch.OutOfMemoryError("full"))
            size = memory.fits(tiny_pipe, 100)
            found.append(size)
    vars(tiny_pipe).pop("_saeuron_fits")
    assert found == [48, 24, 8, 4, 2, 1] and LANES == 8
