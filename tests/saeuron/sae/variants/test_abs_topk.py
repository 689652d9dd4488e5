import pytest
import torch

from saeuron.sae.config import SAEConfig
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import resumed

SMALL = SAEConfig(variant="abs_topk", expansion=6, k=2, batch=64, steps=30, lr=1e-2, dead_rows=128)
PLANTED = SAEConfig(variant="abs_topk", expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)


def signed(f):
    """f+ - f- of the exported SAE's latents [B, 2 N]; no latent has both."""
    plus, minus = f.chunk(2, dim=1)
    assert ((plus == 0) | (minus == 0)).all()
    return plus - minus


def slow_latents(pre, k):
    """Row by row: the k entries of largest size, the others zero."""
    f = torch.zeros_like(pre)
    for b in range(len(pre)):
        for i in sorted(range(pre.shape[1]), key=lambda i, b=b: -abs(pre[b, i].item()))[:k]:
            f[b, i] = pre[b, i]
    return f


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path):
    variant = random_variant(SMALL, path=path)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    out = variant(x, 0)
    f = slow_latents((x - variant.b_dec) @ variant.W_enc.T + variant.b_enc, 2)
    loss = ((x - f @ variant.W_dec - variant.b_dec) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    parameters = dict(variant.named_parameters())
    found = torch.autograd.grad(out.loss, list(parameters.values()), retain_graph=True)
    expected = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    for name, a, b in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        assert a.abs().sum() > 0
    # A latent that only ever goes negative fires.
    assert torch.equal(out.fired, (f != 0).any(0))
    assert ((f < 0).any(0) & ~(f > 0).any(0)).any()
    assert out.active == 60
    least = torch.stack([row[row != 0].abs().min() for row in f]).mean()
    torch.testing.assert_close(out.least, least.detach())


@pytest.mark.parametrize("dead", [1, 2, 5, 20])
def test_aux_k_takes_the_dead_of_largest_size_with_their_signs(random_variant, dead):
    variant = random_variant(SMALL)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_hat = torch.randn(30, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.zeros(48, dtype=torch.bool)
    mask[torch.randperm(48, generator=torch.Generator().manual_seed(3))[:dead]] = True
    pre = torch.where(mask, (x - variant.b_dec) @ variant.W_enc.T + variant.b_enc, 0)
    # k_aux = D / 2 = 4 halves; a dead latent has two.
    e_hat = slow_latents(pre, 4) @ variant.W_dec
    expected = min(1, 2 * dead / 4) * ((x - x_hat - e_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    found = variant.auxiliary(x, x_hat, mask)
    torch.testing.assert_close(found, expected)
    wanted = (variant.W_enc, variant.W_dec, variant.b_enc, variant.b_dec)
    for a, b in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("k", [1, 3, 48])
def test_top_k_of_both_signs_is_abs_top_k_split_by_sign(random_variant, k):
    variant = random_variant(SMALL.model_copy(update={"k": k})).float()
    sae = variant.export("h")
    assert (sae.info.n_latents, sae.info.k, sae.info.activation, sae.info.hookpoint) == (96, k, "topk", "h")
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    pre = ((x - variant.b_dec) @ variant.W_enc.T + variant.b_enc).detach()
    f = sae.encode(x)
    assert f.min() >= 0
    torch.testing.assert_close(signed(f), slow_latents(pre, k))
    torch.testing.assert_close(sae(x), variant(x, 0).x_hat)
    torch.testing.assert_close(f[:5], sae.encode(x[:5]))


def test_ties_in_size_and_zeros(random_variant):
    variant = random_variant(SMALL.model_copy(update={"k": 5})).float()
    with torch.no_grad():
        variant.W_enc.zero_()
        variant.W_enc[:6] = torch.eye(8)[[0, 0, 0, 1, 1, 2]] * torch.tensor([1, -1, 1, 1, -1, 1])[:, None]
        variant.b_enc.zero_()
        variant.b_dec.zero_()
    x = torch.tensor([[2.0, 2, 1, 0, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0, 0, 0], [0, 0, -3, 0, 0, 0, 0, 0], [0] * 8])
    f = signed(variant.export().encode(x))
    pre = x @ variant.W_enc.T
    # Which of the tied are kept is open; their sizes, signs and number are not.
    assert torch.equal(f.abs().sort(1).values[:, -5:], pre.abs().sort(1).values[:, -5:])
    assert torch.equal(f, torch.where(f != 0, pre, 0))
    assert (f != 0).sum(1).tolist() == [5, 5, 1, 0]
    assert f[2].tolist()[5] == -3
    out = variant(x, 0)
    assert (out.active, out.fired.sum()) == (11, 6)


def test_a_threshold_at_inference_is_on_the_size(random_variant):
    variant = random_variant(SMALL.model_copy(update={"inference": "threshold"})).float()
    variant.follow(torch.tensor(1.5), 0)
    sae = variant.export()
    assert sae.info.activation == "threshold" and sae.threshold.tolist() == [1.5] * 96
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    pre = ((x - variant.b_dec) @ variant.W_enc.T + variant.b_enc).detach()
    f = signed(sae.encode(x))
    torch.testing.assert_close(f, torch.where(pre.abs() > 1.5, pre, 0))
    assert (f > 0).any() and (f < 0).any()


def test_planted_directions_are_recovered_and_half_the_exported_latents_idle(recovered):
    sae, cosine, held_out = recovered(PLANTED)
    # Strengths are positive: each direction needs one sign. Latents of the other sign are in the same SAE.
    assert cosine > 0.88
    found = quality(sae, iter(held_out.split(512)))
    assert found.l0 == pytest.approx(3, abs=0.01)
    assert found.fvu < 0.2
    assert sae.W_dec.shape == (64, 16)
    assert torch.equal(sae.W_dec[:32], -sae.W_dec[32:])


def test_a_direction_and_its_opposite_take_one_latent():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(16, 16, generator=generator), dim=1)
    found = []
    for variant in ("abs_topk", "topk"):
        config = SAEConfig(variant=variant, expansion=1, k=2, batch=256, steps=250, lr=1e-2, dead_rows=5000)
        trainer = Trainer(config, 16, "")
        for step in range(config.steps):
            which = torch.rand(256, 16, generator=generator).argsort(1)[:, :2]
            strengths = torch.randn(256, 2, generator=generator)
            batch = torch.zeros(256, 16).scatter(1, which, strengths) @ directions
            if step == 0:
                trainer.initialise(batch)
            trainer.step(batch)
        found.append((trainer.history[-1].fvu, float((directions @ trainer.sae.W_dec[:16].T).abs().amax(1).mean())))
    (signed_fvu, signed_cosine), (fvu, _) = found
    # As many latents as directions: TopK has half of what it needs.
    assert signed_cosine > 0.9
    assert signed_fvu < 0.5 * fvu


def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path):
    whole, _ = resumed(SMALL, tmp_path)
    assert whole.history[-1].dead > 0
    assert len(whole.silent) == 48
