import pytest
import torch
from torch.distributions import Normal, kl_divergence

from saeuron.noise import generator
from saeuron.sae.config import SAEConfig, VSAEOptions
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import normal, resumed, rows

OPTIONS = VSAEOptions(sigma=0.7, weight=0.3, warmup=0.5)
SMALL = SAEConfig(variant="vsae", expansion=6, k=2, batch=64, steps=30, lr=1e-2, dead_rows=128, vsae=OPTIONS)
PLANTED = SAEConfig(variant="vsae", expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)


def small(**options):
    return SMALL.model_copy(update={"vsae": OPTIONS.model_copy(update=options)})


def by_hand(v, x, step, weight):
    """Loss by loops over rows and latents, with the noise that the step draws; gradients by autograd through them."""
    B, N, k, u = len(x), v.n_latents, v.config.k, v.unit
    noise = torch.randn(B, N, generator=generator(0, "vsae", step)).double()
    error, divergence, active, fired, least = 0.0, 0.0, 0, set(), []
    for b in range(B):
        x_bar, z, mu = x[b] - v.b_dec, [], []
        for i in range(N):
            mu.append(v.W_enc[i] @ x_bar + v.b_enc[i])
            learned = v.config.vsae.variance == "learned"
            sigma = ((v.W_var[i] @ x_bar + v.b_var[i]) / 2).exp() if learned else torch.tensor(0.7, dtype=x.dtype)
            z.append(mu[i] + u * sigma * noise[b, i])
            divergence = divergence + kl_divergence(Normal(mu[i] / u, sigma), Normal(0.0, 1.0)) / (B * N)
        kept = [i for i in sorted(range(N), key=lambda i: -z[i].item())[:k] if z[i] > 0]
        error = error + ((x_bar - sum((z[i] * v.W_dec[i] for i in kept), torch.zeros_like(x_bar))) ** 2).sum()
        active += len(kept)
        certain = [i for i in sorted(range(N), key=lambda i: -mu[i].item())[:k] if mu[i] > 0]
        fired |= set(certain)
        least.append(mu[certain[-1]].item())
    return error / ((x - x.mean(0)) ** 2).sum() + weight * divergence, active, fired, sum(least) / B


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, variance):
    variant = random_variant(small(variance=variance))
    variant.unit.fill_(1.4)
    x = normal(12, 8) + 0.5
    out = variant(x, 4)
    # A third of the way up: step 4 is the fifth of the fifteen in which the weight rises.
    loss, active, fired, least = by_hand(variant, x, 4, 0.3 / 3)
    torch.testing.assert_close(out.loss, loss, rtol=1e-6, atol=0)
    assert out.active == active
    assert set(out.fired.nonzero().flatten().tolist()) == fired
    assert float(out.least) == pytest.approx(least)
    names = [n for n, _ in variant.named_parameters()]
    assert ({"W_var", "b_var"} <= set(names)) == (variance == "learned")
    found = torch.autograd.grad(out.loss, list(variant.parameters()))
    expected = torch.autograd.grad(loss, list(variant.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
        assert a.abs().sum() > 0


def test_the_weight_of_the_divergence_rises_and_stays():
    variant = Trainer(SMALL, 8, "").variant
    assert [variant.weight(s) for s in (0, 4, 14, 15, 29)] == pytest.approx([0.02, 0.1, 0.3, 0.3, 0.3])
    assert Trainer(small(warmup=0), 8, "").variant.weight(0) == 0.3


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_training_draws_noise_of_its_step_and_inference_none(random_variant, variance):
    x = normal(4096, 8)
    variant = random_variant(small(variance=variance))
    again = random_variant(small(variance=variance))
    assert torch.equal(variant(x, 3).x_hat, again(x, 3).x_hat)
    assert not torch.equal(variant(x, 3).x_hat, again(x, 4).x_hat)
    sae = variant.export().double()
    mu = (x - variant.b_dec) @ variant.W_enc.T + variant.b_enc
    best = mu.topk(2, dim=1)
    expected = torch.zeros_like(mu).scatter(1, best.indices, best.values.relu())
    torch.testing.assert_close(sae.encode(x), expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(sae(x), sae(x))


def test_noise_has_the_size_that_was_asked_for(random_variant):
    """With one latent that is always drawn and an identity for a decoder, x_hat is z."""
    config = small(sigma=0.25).model_copy(update={"expansion": 1, "k": 1})
    variant = random_variant(config, width=1)
    with torch.no_grad():
        variant.W_dec.fill_(1)
        variant.W_enc.fill_(1)
        variant.b_enc.zero_()
        variant.b_dec.zero_()
        variant.unit.fill_(8.0)
    x = 100 + normal(20000, 1)
    noise = (variant(x, 0).x_hat - x).detach()
    assert float(noise.std()) == pytest.approx(0.25 * 8, rel=0.02)
    assert abs(float(noise.mean())) < 0.06


def test_the_unit_is_the_spread_of_p_over_the_first_sample():
    for scale in (1.0, 1000.0):
        trainer = Trainer(SMALL, 8, "")
        x = scale * rows(1)[0].float()
        trainer.initialise(x)
        p = (x - trainer.variant.b_dec) @ trainer.variant.W_enc.T
        assert float(trainer.variant.unit) == pytest.approx(float(p.detach().std()), rel=1e-4)
        # So the noise does to large activations what it does to small ones.
        assert 0.4 < float(trainer.variant(x, 0).loss.detach()) < 1.5


def test_planted_directions_are_recovered_with_k_active_at_inference(recovered):
    sae, cosine, held_out = recovered(PLANTED)
    assert cosine > 0.9
    assert sae.info.activation == "topk"
    figures = quality(sae, iter(held_out.split(512)))
    assert figures.l0 == pytest.approx(3, rel=0.1)
    assert figures.fvu < 0.17
    torch.testing.assert_close(sae.encode(held_out[:7]), sae.encode(held_out)[:7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path, variance):
    whole, _ = resumed(small(variance=variance), tmp_path)
    assert whole.history[-1].dead > 0
