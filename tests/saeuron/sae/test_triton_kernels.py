"""The kernels for GPUs against the operators they stand in for; run by Triton's interpreter where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is there for Linux alone")

from saeuron.errors import ConfigError
from saeuron.sae import triton_kernels
from saeuron.sae.config import SAEConfig
from saeuron.sae.ranks import ALONE
from saeuron.sae.sparse import TORCH, Pattern, encode_at
from saeuron.sae.training import Trainer
from saeuron.sae.triton_kernels import TRITON, project
from saeuron.sae.update import TritonUpdate, Update
from saeuron.sae.variants import make

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_the_device():
    with torch.device(DEVICE):
        yield


SHAPES = [(3, 96, 40, 4), (4, 200, 72, 7), (3, 64, 1, 1), (3, 320, 150, 32)]
"""B, N, D, k; of all kinds of remainders."""


def rows_of(shape, seed=0):
    """p [B, N], one row of it with fewer positive numbers than k, one full of equals."""
    torch.manual_seed(seed)
    pre = torch.randn(shape[:2])
    pre[0, :-1], pre[0, -1] = -1, 1
    pre[1] = 0.5
    return pre


def pairs_of(shape, seed=0):
    """A pattern of about k a row, one row of it and some latents without any; and a value for each pair."""
    torch.manual_seed(seed)
    batch, latents, _, k = shape
    chosen = torch.rand(batch, latents) < k / latents
    chosen[1] = False
    pattern = Pattern(*chosen.nonzero(as_tuple=True), (batch, latents))
    return pattern, torch.randn(len(pattern.rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
class TestRowTopK:
    def test_is_exact(self, shape, dtype):
        pre, k = rows_of(shape).to(dtype), shape[3]
        values, places = TRITON.row_top_k(pre, k)
        expected = pre.float().relu().topk(k, dim=1).values
        assert torch.equal(values.sort(dim=1, descending=True).values, expected)
        assert torch.equal(pre.float().relu().gather(1, places.long()), values)
        assert all(len(set(row)) == k for row in places.tolist())

    def test_of_equals_the_first(self, shape, dtype):
        _, places = TRITON.row_top_k(rows_of(shape).to(dtype), shape[3])
        assert places[1].tolist() == list(range(shape[3]))

    def test_in_two_stages_it_finds_the_same(self, shape, dtype, monkeypatch):
        pre, k = rows_of(shape).to(dtype), shape[3]
        whole = TRITON.row_top_k(pre, k)
        monkeypatch.setattr(triton_kernels, "_WIDEST", max(k + 1, shape[1] // 3))
        for found, expected in zip(TRITON.row_top_k(pre, k), whole, strict=True):
            # Which of the places without anything fill up a row is open.
            assert torch.equal(found[1:], expected[1:]) and set(found[0].tolist()) >= {expected[0].max().item()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
class TestProducts:
    def test_bags(self, shape, dtype):
        pattern, values = pairs_of(shape)
        batch, latents, width, _ = shape
        W, x = torch.randn(latents, width).to(dtype), torch.randn(batch, width).to(dtype)
        found = TRITON.bags(W, pattern.latents, pattern.row_starts, values)
        torch.testing.assert_close(found, pattern.dense(values) @ W.float(), rtol=1e-5, atol=1e-5)
        order, starts = pattern.by_latent
        found = TRITON.bags(x, pattern.rows[order], starts, values[order])
        torch.testing.assert_close(found, pattern.dense(values).T @ x.float(), rtol=1e-5, atol=1e-5)

    def test_dots(self, shape, dtype):
        pattern, _ = pairs_of(shape)
        batch, latents, width, _ = shape
        x, W = torch.randn(batch, width), torch.randn(latents, width).to(dtype)
        expected = (x @ W.float().T)[pattern.rows, pattern.latents]
        torch.testing.assert_close(TRITON.dots(pattern, x, W), expected, rtol=1e-5, atol=1e-4)


def test_an_expanded_gradient_is_no_mistake():
    """The gradient of a sum is one number that stands for all."""
    pattern, values = pairs_of(SHAPES[0])
    batch, latents, width, _ = SHAPES[0]
    found = []
    for kernels in (TORCH, TRITON):
        torch.manual_seed(0)
        W = torch.randn(latents, width, requires_grad=True)
        x, b_enc, b_dec = torch.randn(batch, width), torch.zeros(latents, requires_grad=True), torch.zeros(width)
        encode_at(pattern, x, W, b_enc, b_dec, values, kernels).sum().backward()
        found += [W.grad, b_enc.grad]
    torch.testing.assert_close(found[:2], found[2:])


@pytest.mark.parametrize("variant", ["topk", "gated"])
def test_they_are_refused_where_there_is_no_gpu(variant, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"train.kernels 'triton' needs CUDA; on cpu use 'torch'"):
        Trainer(SAEConfig(variant=variant, kernels="triton"), 8, "", "cpu")


def test_the_gradient_along_unit_rows_is_removed_and_its_squares_are_summed():
    torch.manual_seed(0)
    W, gradient = torch.nn.functional.normalize(torch.randn(7, 50), dim=1), torch.randn(7, 50)
    free = gradient - (gradient * W).sum(1, keepdim=True) * W
    torch.testing.assert_close(project(gradient.clone(), W, unit=False), gradient.square().sum(1))
    squares = project(gradient, W, unit=True)
    torch.testing.assert_close(gradient, free)
    torch.testing.assert_close(squares, free.square().sum(1))


@pytest.mark.parametrize("clip", [1e-2, 1e6])
def test_an_update_is_the_reference(clip):
    config = SAEConfig(variant="topk", expansion=2, k=2, clip=clip)
    ours, reference = (make(config, 11) for _ in range(2))
    updates = TritonUpdate(ours, config, ALONE), Update(reference, config, ALONE)
    generator = torch.Generator("cpu").manual_seed(0)
    for step in range(4):
        for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator, device="cpu").to(DEVICE)
            b.grad = a.grad.clone()
        for update in updates:
            update.step(1e-2 / (step + 1))
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(*(u.optimizer.state[p][moment] for u, p in zip(updates, (a, b), strict=True)))


OPTIONS = [
    {"variant": "topk"},
    {"variant": "topk", "topk": {"multi": 0.125}},
    {"variant": "batch_topk"},
    {"variant": "matryoshka"},
    {"variant": "abs_topk"},
    {"variant": "jumprelu"},
    {"variant": "ra_sae"},
]


def trained(config, kernels, load=None, save=None):
    """A trainer after four steps; from a checkpoint, or to one half-way."""
    generator = torch.Generator("cpu").manual_seed(1)
    rows = [torch.randn(6, 8, generator=generator, device="cpu") for _ in range(4)]
    trainer = Trainer(config.model_copy(update={"kernels": kernels}), 8, "", DEVICE)
    trainer.initialise(rows[0])
    if load:
        trainer.load(load)
    for x in rows[trainer.step_index :]:
        if save and trainer.step_index == 2:
            trainer.save(save)
        trainer.step(x)
    return trainer


@pytest.mark.parametrize("variant", ["assigned", "contrastive"])
def test_variants_that_learn_from_labels_end_as_with_the_reference(variant):
    config = SAEConfig(variant=variant, expansion=2, k=3, batch=6, steps=4)
    generator = torch.Generator("cpu").manual_seed(1)
    rows = [torch.randn(6, 8, generator=generator, device="cpu") for _ in range(4)]
    labels = torch.tensor([[0], [1], [0], [-1], [1], [0]], device="cpu")
    ends = []
    for kernels in ("triton", "torch"):
        of = config.model_copy(update={"kernels": kernels})
        trainer = Trainer(of, 8, "", DEVICE, path="fast", concepts={"style": ("dots", "neon")})
        assert isinstance(trainer.update, TritonUpdate) == (kernels == "triton")
        trainer.initialise(rows[0])
        for x in rows:
            trainer.step(x, labels)
        ends.append(trainer.variant.state_dict())
    for name, reference in ends[1].items():
        torch.testing.assert_close(ends[0][name], reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_and_all_gradients_are_the_reference(options):
    config = SAEConfig.model_validate({"expansion": 2, "k": 3, "batch": 6, "steps": 4, **options})
    torch.manual_seed(0)
    x, dead = torch.randn(6, 8), torch.arange(16) % 3 == 0
    losses, gradients = [], []
    for kernels in ("triton", "torch"):
        trainer = Trainer(config.model_copy(update={"kernels": kernels}), 8, "", DEVICE, path="fast")
        assert trainer.variant.kernels is (TRITON if kernels == "triton" else TORCH)
        assert isinstance(trainer.update, TritonUpdate) == (kernels == "triton" and options["variant"] != "ra_sae")
        trainer.initialise(x)
        out = trainer.variant(x, 0)
        losses.append(out.loss + trainer.variant.auxiliary(x, out.x_hat, dead))
        losses[-1].backward()
        gradients.append({name: p.grad for name, p in trainer.variant.named_parameters()})
    torch.testing.assert_close(*losses)
    for name, reference in gradients[1].items():
        assert reference is not None and reference.any(), name
        torch.testing.assert_close(gradients[0][name], reference, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_goes_on_with_other_kernels(tmp_path):
    config = SAEConfig(variant="topk", expansion=2, k=2, batch=6, steps=4, dead_rows=6)
    whole = trained(config, "torch")
    assert (whole.silent >= 6).any(), "AuxK took part"
    for before, after in (("torch", "triton"), ("triton", "torch")):
        trained(config, before, save=tmp_path / before)
        resumed = trained(config, after, load=tmp_path / before)
        assert torch.equal(resumed.silent, whole.silent)
        torch.testing.assert_close(resumed.variant.W_enc, whole.variant.W_enc, rtol=1e-4, atol=1e-5)


def test_half_precision_is_near():
    config = SAEConfig(variant="topk", expansion=2, k=2, batch=6, steps=4)
    exact = trained(config, "torch")
    half = trained(config.model_copy(update={"precision": "bfloat16"}), "triton")
    assert half.variant.W_enc.dtype == torch.float32
    assert 0 < abs(half.history[-1].fvu / exact.history[-1].fvu - 1) < 0.02
