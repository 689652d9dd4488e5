import pytest
import torch

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import JumpReLUOptions, SAEConfig
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import resumed, rows

SMALL = SAEConfig(
    variant="jumprelu", expansion=6, k=2, batch=64, steps=30, lr=1e-2, dead_rows=128, jumprelu=JumpReLUOptions(speed=1)
)
PLANTED = SAEConfig(
    variant="jumprelu",
    expansion=2,
    k=3,
    batch=256,
    steps=600,
    lr=1e-2,
    dead_rows=5000,
    jumprelu=JumpReLUOptions(speed=3),
)


def by_hand(v, x):
    """Loss and gradients by loops over rows and latents: the chain rule written out, jumps by the paper's rule."""
    B, N = len(x), v.n_latents
    theta, eps, o = v.theta().detach(), v.eps, v.config.jumprelu
    W_enc, W_dec, b_enc, b_dec = (p.detach() for p in (v.W_enc, v.W_dec, v.b_enc, v.b_dec))
    to = {n: torch.zeros_like(p) for n, p in v.named_parameters()}
    variance = ((x - x.mean(0)) ** 2).sum()
    p = torch.stack([torch.stack([W_enc[i] @ (r - b_dec) + b_enc[i] for i in range(N)]) for r in x])
    f = torch.where(p > theta, p, 0)
    x_hat = torch.stack([sum((f[b, i] * W_dec[i] for i in range(N)), b_dec) for b in range(B)])
    l0 = (p > theta).double().sum() / B
    loss = ((x - x_hat) ** 2).sum() / variance + o.weight * (l0 / v.config.k - 1) ** 2
    to_l0 = o.weight * 2 * (l0 / v.config.k - 1) / v.config.k
    for b in range(B):
        to_x_hat = -2 * (x[b] - x_hat[b]) / variance
        to["b_dec"] += to_x_hat
        for i in range(N):
            to["W_dec"][i] += f[b, i] * to_x_hat
            to_f = W_dec[i] @ to_x_hat
            if abs(p[b, i] - theta[i]) < eps / 2:
                d_theta = -theta[i] / eps * to_f - to_l0 / (eps * B)
                to["level"][i] += d_theta * theta[i] * o.speed
            if p[b, i] > theta[i]:
                to["W_enc"][i] += to_f * (x[b] - b_dec)
                to["b_enc"][i] += to_f
                to["b_dec"] -= to_f * W_enc[i]
    return loss, to, l0


@pytest.mark.parametrize("bandwidth", [0.2, 3.0])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path, bandwidth):
    config = SMALL.model_copy(update={"jumprelu": JumpReLUOptions(speed=2, weight=0.7, bandwidth=bandwidth)})
    variant = random_variant(config, path=path)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    out = variant(x, 0)
    names = [n for n, _ in variant.named_parameters()]
    found = dict(zip(names, torch.autograd.grad(out.loss, list(variant.parameters())), strict=True))
    loss, expected, l0 = by_hand(variant, x)
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    assert found.keys() == expected.keys() >= {"level", "W_enc", "W_dec", "b_enc", "b_dec"}
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)
        assert found[name].abs().sum() > 0
    assert out.active / 20 == pytest.approx(float(l0))
    # The kernel saw pairs that are off, and they did not count as firing.
    near = variant.choose((x - variant.b_dec) @ variant.W_enc.T + variant.b_enc, x)
    assert len(near.rows) > out.active > 0
    variant.follow(None, 0)
    active = (variant.export().double().encode(x) != 0).any(0)
    assert torch.equal(out.fired, active)


def test_a_threshold_rises_with_too_many_active_and_falls_with_too_few(random_variant):
    for k, sign in ((1, -1), (40, 1)):
        config = SMALL.model_copy(update={"k": k, "jumprelu": JumpReLUOptions(speed=1, weight=1e3)})
        variant = random_variant(config)
        out = variant(torch.randn(50, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0)
        assert 1 < out.active / 50 < 40
        gradient = torch.autograd.grad(out.loss, variant.level)[0]
        gradient = gradient[gradient != 0]
        assert len(gradient) > 10
        # Descending along the gradient, so the sign is the opposite of where theta goes.
        assert (gradient.sign() == sign).all()


def test_training_starts_with_k_active_and_a_bandwidth_in_units_of_p():
    for scale in (1.0, 1000.0):
        trainer = Trainer(SMALL, 8, "")
        x = scale * rows(1)[0].float()
        trainer.initialise(x)
        variant = trainer.variant
        pre = (x - variant.b_dec) @ variant.W_enc.T
        assert float(variant.eps) == pytest.approx(0.5 * float(pre.detach().std()), rel=1e-5)
        # Strictly above: the least of the k B is theta itself.
        assert variant(x, 0).active == 2 * 64 - 1
        assert variant.threshold.unique().numel() == 1


def test_planted_directions_are_recovered_with_k_active_at_inference(recovered):
    sae, cosine, held_out = recovered(PLANTED)
    assert cosine > 0.87
    assert sae.info.activation == "threshold"
    assert sae.threshold.std() > 0.01
    found = quality(sae, iter(held_out.split(512)))
    assert found.l0 == pytest.approx(3, rel=0.1)
    assert found.fvu < 0.2


def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path):
    whole, _ = resumed(SMALL, tmp_path)
    assert whole.history[-1].dead > 0


def test_the_saved_sae_thresholds_each_latent_alone(tmp_path, random_variant):
    variant = random_variant(SMALL).float()
    variant.follow(None, 0)
    sae = variant.export("h")
    sae.save(tmp_path)
    loaded = SAE.load(tmp_path)
    x = rows(1)[0].float()
    f = loaded.encode(x)
    torch.testing.assert_close(loaded.threshold, variant.theta().detach())
    assert loaded.threshold.unique().numel() > 10
    pre = (x - variant.b_dec) @ variant.W_enc.T + variant.b_enc
    torch.testing.assert_close(f, pre * (pre > variant.theta()))
    torch.testing.assert_close(loaded(x), variant(x, 0).x_hat)
    torch.testing.assert_close(f[:5], loaded.encode(x[:5]))
