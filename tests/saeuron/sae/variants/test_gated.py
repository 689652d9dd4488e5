import pytest
import torch

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import GatedOptions, SAEConfig
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import resumed

SMALL = SAEConfig(variant="gated", expansion=6, k=6, batch=64, steps=30, lr=1e-2, dead_rows=128)
PLANTED = SAEConfig(variant="gated", expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)


def two_paths(v, x):
    """Both pi and f of section 3.2, row by row and latent by latent."""
    pi, f = torch.zeros(len(x), v.n_latents).double(), torch.zeros(len(x), v.n_latents).double()
    for b in range(len(x)):
        for i in range(v.n_latents):
            a = v.W_enc[i] @ (x[b] - v.b_dec)
            pi[b, i] = a + v.unit * v.gate[i]
            if pi[b, i] > 0:
                f[b, i] = torch.relu(torch.exp(v.r[i]) * a + v.unit * v.magnitude[i])
    return pi, f


@pytest.mark.parametrize("adapt", [0.0, 0.02])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, adapt):
    variant = random_variant(SMALL.model_copy(update={"gated": GatedOptions(weight=0.25, adapt=adapt)}))
    variant.unit.fill_(0.7)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    out = variant(x, 0)
    pi, f = two_paths(variant, x)
    centred = ((x - x.mean(0)) ** 2).sum()
    frozen = {name: p.detach().clone() for name, p in variant.named_parameters()}
    l0 = (f != 0).double().sum() / 20
    lambda_ = 0.25 * (float(l0) / 6) ** 2 if adapt else 0.25
    # In units in which mean |x - mean x|^2 is 1, as the paper's activations have it.
    s = (centred / 20).sqrt()
    main = ((x - f @ variant.W_dec - variant.b_dec) ** 2).sum() / 20
    sparsity = sum(torch.relu(pi[b]).sum() for b in range(20)) / 20
    aux = ((x - torch.relu(pi) @ frozen["W_dec"] - frozen["b_dec"]) ** 2).sum() / 20
    loss = main / s**2 + lambda_ * sparsity / s + aux / s**2
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    found = torch.autograd.grad(out.loss, list(variant.parameters()))
    expected = torch.autograd.grad(loss, list(variant.parameters()))
    for name, a, b in zip(frozen, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        assert a.abs().sum() > 0
    assert (out.active, float(out.least)) == (int((f != 0).sum()), pytest.approx(float(l0)))
    assert torch.equal(out.fired, (f != 0).any(0))


def test_the_decoder_hears_nothing_of_the_gates_reconstruction(random_variant):
    # With every magnitude negative x_hat is b_dec, and all that is left to W_dec is what must not reach it.
    variant = random_variant(SMALL)
    with torch.no_grad():
        variant.magnitude.fill_(-1000)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = variant(x, 0)
    to_W_dec, to_W_enc = torch.autograd.grad(out.loss, (variant.W_dec, variant.W_enc))
    assert out.active == 0
    assert to_W_dec.abs().max() == 0
    assert to_W_enc.abs().max() > 0


def test_aux_k_opens_gates(random_variant):
    variant = random_variant(SMALL)
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dead = torch.arange(48) < 3
    loss = variant.auxiliary(x, torch.zeros_like(x), dead)
    pi, _ = two_paths(variant, x)
    e_hat = torch.relu(pi[:, :3]) @ variant.W_dec[:3]
    torch.testing.assert_close(loss, 3 / 4 * ((x - e_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert torch.autograd.grad(loss, variant.gate)[0][:3].abs().min() > 0


def test_folded_inference_is_the_two_paths(tmp_path, random_variant):
    variant = random_variant(SMALL)
    variant.unit.fill_(0.7)
    variant.export("h").save(tmp_path)
    sae = SAE.load(tmp_path)
    assert (sae.info.activation, sae.info.hookpoint, sae.info.n_latents) == ("threshold", "h", 48)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pi, f = (t.detach() for t in two_paths(variant, x))
    found = sae.encode(x.float())
    # Away from the very edge of a gate, where rounding decides, the same latents fire.
    edge = pi.abs() < 1e-5
    assert edge.float().mean() < 1e-3
    torch.testing.assert_close(found[~edge], f[~edge].float(), rtol=1e-4, atol=1e-5)
    # Both conditions matter: open gates with no magnitude, and magnitudes behind closed gates.
    magnitude = (x - variant.b_dec) @ variant.W_enc.T * variant.r.exp() + variant.b_mag
    assert ((pi > 0) & (magnitude <= 0)).any() and ((pi <= 0) & (magnitude > 0)).any()
    assert sae.threshold.min() < 0 < sae.threshold.max()
    torch.testing.assert_close(sae(x.float()), variant(x, 0).x_hat.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:5], sae.encode(x[:5].float()))


@pytest.mark.parametrize(("l0", "factor"), [(6.0, 1.0), (9.0, 1.01), (3.0, 1 / 1.01), (60.0, 1.02), (0.0, 1 / 1.02)])
def test_lambda_turns_towards_k(l0, factor):
    variant = Trainer(SMALL.model_copy(update={"gated": GatedOptions(weight=0.5, adapt=0.02)}), 8, "").variant
    variant.follow(torch.tensor(l0), 0)
    assert float(variant.weight) == pytest.approx(0.5 * factor, rel=2e-4)


def test_a_fixed_lambda_stays_and_a_larger_one_is_sparser():
    data, active = torch.randn(100, 64, 8, generator=torch.Generator().manual_seed(0)), []
    for weight in (0.01, 1.0):
        config = SMALL.model_copy(update={"steps": 100, "gated": GatedOptions(weight=weight, adapt=0)})
        trainer = Trainer(config, 8, "")
        trainer.initialise(data[0])
        for batch in data:
            trainer.step(batch)
        assert float(trainer.variant.weight) == pytest.approx(weight)
        active.append(trainer.history[-1].l0)
    assert active[1] < 0.5 * active[0]


def test_planted_directions_are_recovered_with_about_k_active_at_inference(recovered):
    sae, cosine, held_out = recovered(PLANTED)
    assert cosine > 0.89
    found = quality(sae, iter(held_out.split(512)))
    assert found.l0 == pytest.approx(3, rel=0.2)
    assert found.fvu < 0.2
    # No shrinkage: what the L1 norm takes from the gates, the magnitudes give back.
    x_hat = sae(held_out) - sae.b_dec
    centred = held_out - sae.b_dec
    assert float((x_hat * centred).sum() / (x_hat * x_hat).sum()) == pytest.approx(1, abs=0.05)


def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path):
    def shut(trainer):
        with torch.no_grad():
            trainer.variant.gate[:5] = -100

    whole, _ = resumed(SMALL, tmp_path, shut)
    assert whole.history[-1].dead > 0
    assert float(whole.variant.unit) != 1
