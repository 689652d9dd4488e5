import pytest
import torch

from saeuron.errors import SaeuronError
from saeuron.sae.config import FeatureChoiceOptions, MutualChoiceOptions, SAEConfig
from saeuron.sae.losses import zipf
from saeuron.sae.training import Trainer, quality
from saeuron.sae.variants.choice import quotas
from tests.saeuron.sae.variants.resuming import normal, resumed, rows

NAMES = ("mutual_choice", "feature_choice")
SMALL = SAEConfig(
    expansion=6,
    k=2,
    batch=64,
    steps=30,
    lr=1e-2,
    dead_rows=128,
    mutual_choice=MutualChoiceOptions(exponent=0.3, share=1),
    feature_choice=FeatureChoiceOptions(exponent=1, share=0.8),
)
PLANTED = SAEConfig(expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)


def of(name, config=SMALL, **changes):
    return config.model_copy(update={"variant": name, **changes})


def shares_by_bisection(count, total, exponent, most):
    """min(most, c r^-s) with the c that makes the sum right, found by halving."""
    low, high = 0.0, 1e12
    for _ in range(200):
        c = (low + high) / 2
        shares = [min(most, c * r**-exponent) for r in range(1, count + 1)]
        low, high = (c, high) if sum(shares) < total else (low, c)
    return shares


def chosen_by_hand(name, p, k):
    """The pairs (row, latent) that are active, by sorting."""
    B, N = p.shape
    if name == "mutual_choice":
        pairs = sorted(((b, i) for b in range(B) for i in range(N)), key=lambda at: -p[at].item())[: k * B]
    else:
        ideal = [1 + q for q in shares_by_bisection(N, k * B - N, 1, B - 1)]
        m = [int(q + 1e-9) for q in ideal]
        for i in sorted(range(N), key=lambda i: m[i] - ideal[i])[: k * B - sum(m)]:
            m[i] += 1
        assert sum(m) == k * B and 1 == min(m) < max(m)
        pairs = [(b, i) for i in range(N) for b in sorted(range(B), key=lambda b: -p[b, i].item())[: m[i]]]
    return [at for at in pairs if p[at] > 0]


def by_hand(v, x):
    """Loss with the pairs and the under-used latents found by loops; gradients by autograd through dense latents."""
    name, config, (B, N) = v.config.variant, v.config, (len(x), v.n_latents)
    options, variance = getattr(config, name), ((x - x.mean(0)) ** 2).sum()
    p = (x - v.b_dec) @ v.W_enc.T + v.b_enc
    pairs = chosen_by_hand(name, p.detach(), config.k)
    mask = torch.zeros_like(p)
    mask[tuple(zip(*pairs, strict=True))] = 1
    x_hat = (p * mask) @ v.W_dec + v.b_dec
    expected = shares_by_bisection(N, config.k, options.exponent, 1.0)
    if name == "mutual_choice":
        ranked = sorted(range(N), key=lambda i: -v.density[i].item())
        expected = {i: min(q, config.k / N) for i, q in zip(ranked, expected, strict=True)}
    under = [i for i in range(N) if v.density[i] < options.share * expected[i]]
    error, aux, wanted = (x - x_hat).detach(), 0.0, x.shape[1] // 2
    for b in range(B):
        best = sorted(under, key=lambda i: -p[b, i].item())[:wanted]
        e_hat = sum((torch.relu(p[b, i]) * v.W_dec[i] for i in best), torch.zeros_like(x[b]))
        aux = aux + ((error[b] - e_hat) ** 2).sum()
    aux = min(1.0, len(under) / wanted) * aux / variance
    return ((x - x_hat) ** 2).sum() / variance + config.auxk_alpha * aux, pairs, under, p.detach()


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, name, path):
    variant = random_variant(of(name, auxk_alpha=0.7), path=path)
    variant.density.copy_(normal(48).abs() * 0.05)
    x = normal(40, 8) + 0.5
    out = variant(x, 0)
    loss, pairs, under, p = by_hand(variant, x)
    assert 4 < len(under) < 44
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    assert out.active == len(pairs)
    assert set(out.fired.nonzero().flatten().tolist()) == {i for _, i in pairs}
    names = [n for n, _ in variant.named_parameters()]
    found = dict(zip(names, torch.autograd.grad(out.loss, list(variant.parameters())), strict=True))
    expected = torch.autograd.grad(loss, list(variant.parameters()))
    for n, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[n], gradient, rtol=1e-9, atol=1e-11)
    # What aux_zipf_loss is for: latents that nobody chose learn (those that no row would have chosen cannot).
    silent = [i for i in under if not out.fired[i]]
    learn = [i for i in silent if found["W_enc"][i].abs().sum() > 0]
    assert (len(learn) > len(silent) / 2) if name == "mutual_choice" else not silent
    # What is followed: the least kept activation and the density, of this batch.
    least, density = out.least
    for i in range(48):
        kept = [p[at].item() for at in pairs if name == "mutual_choice" or at[1] == i]
        assert float(least[i]) == pytest.approx(min(kept, default=torch.inf))
        assert float(density[i]) == sum(at[1] == i for at in pairs) / 40


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.5])
@pytest.mark.parametrize(
    ("count", "total", "most"), [(48, 2, 1), (50, 20, 1), (7, 6.5, 1), (30, 30 * 9, 9), (9, 300, 64)]
)
def test_shares_follow_zipf_below_a_cap(count, total, most, exponent):
    found = zipf(count, total, exponent, most)
    expected = shares_by_bisection(count, total, exponent, most)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert float(found.sum()) == pytest.approx(total)
    free = found[found < most * (1 - 1e-9)]
    if len(free) > 1:
        ranks = torch.arange(count - len(free) + 1, count + 1, dtype=torch.float64)
        torch.testing.assert_close(free * ranks**exponent, (free * ranks**exponent)[:1].expand(len(free)))


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.5])
@pytest.mark.parametrize(("count", "total", "most"), [(48, 128, 64), (32, 768, 256), (48, 48 * 64, 64), (10, 7, 64)])
def test_quotas_are_whole_and_add_up(count, total, most, exponent):
    m = quotas(count, total, exponent, most)
    assert int(m.sum()) == total
    assert int(total >= count) <= int(m.min()) and int(m.max()) <= most
    assert (m.diff() <= 0).all()
    if not exponent:
        assert int(m.max() - m.min()) <= 1


def test_mutual_choice_chooses_as_batch_topk_does(random_variant):
    x = normal(64, 8)
    mutual, batch = random_variant(of("mutual_choice")), random_variant(of("batch_topk"))
    assert torch.equal(mutual(x, 0).x_hat, batch(x, 0).x_hat)
    # Its revival loss is in the loss, so what the trainer adds for the dead is nothing.
    assert mutual.auxiliary(x, x, torch.ones(48, dtype=torch.bool)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_latent_is_under_used_before_the_first_batch(name):
    assert not Trainer(of(name), 8, "").variant.under_used().any()


def test_a_latent_that_is_used_as_much_as_the_mean_is_not_under_used(random_variant):
    variant = random_variant(of("mutual_choice", mutual_choice=MutualChoiceOptions(share=1.0)))
    variant.density.fill_(2 / 48)
    variant.density[5] *= 0.2
    variant.density[7] = 0
    assert variant.under_used().nonzero().flatten().tolist() == [5, 7]


def test_no_latent_of_feature_choice_can_be_crowded_out(random_variant):
    x = normal(64, 8)
    active = {}
    for name in NAMES:
        variant = random_variant(of(name))
        with torch.no_grad():
            variant.W_enc[:24] *= 1e-3
            variant.b_enc.zero_()
        active[name] = variant(x, 0).least[1] * 64
    assert active["mutual_choice"][:24].sum() == 0
    m = quotas(48, 128, 1.0, 64)
    assert (active["feature_choice"] <= m).all()
    # A quota that half of the rows would not fill is full.
    few = m < 12
    assert 24 < few.sum() < 48
    assert torch.equal(active["feature_choice"][few], m[few].double())


def test_feature_choice_needs_a_pair_for_each_latent():
    Trainer(of("feature_choice", batch=24), 8, "")
    with pytest.raises(SaeuronError, match=r"train\.k \* train\.batch is 46 in each process: .* the 48 latents"):
        Trainer(of("feature_choice", batch=23), 8, "")


@pytest.mark.parametrize("name", NAMES)
def test_thresholds_and_densities_are_running_means(name):
    trainer = Trainer(of(name), 8, "")
    least, density = [], []
    for batch in rows(9):
        out = trainer.variant(batch.float(), trainer.step_index)
        least.append(out.least[0].clone())
        density.append(out.least[1].clone())
        trainer.step(batch)
    variant = trainer.variant
    always = torch.isfinite(torch.stack(least)).all(0)
    assert always.sum() > 24
    torch.testing.assert_close(variant.threshold[always], torch.stack(least).mean(0)[always])
    torch.testing.assert_close(variant.density, torch.stack(density).mean(0), rtol=1e-5, atol=1e-7)
    assert (variant.threshold.unique().numel() == 1) == (name == "mutual_choice")


@pytest.mark.parametrize(
    ("name", "exponent", "cosine"), [("mutual_choice", 1.0, 0.87), ("feature_choice", 0.0, 0.92)], ids=NAMES
)
def test_planted_directions_are_recovered_with_k_active_at_inference(recovered, name, exponent, cosine):
    config = of(name, PLANTED, feature_choice=FeatureChoiceOptions(exponent=exponent))
    sae, found, held_out = recovered(config)
    assert found > cosine
    assert sae.info.activation == "threshold"
    figures = quality(sae, iter(held_out.split(512)))
    assert figures.l0 == pytest.approx(3, rel=0.15)
    assert figures.fvu < 0.17
    if name == "feature_choice":
        assert figures.never == 0
    torch.testing.assert_close(sae.encode(held_out[:7]), sae.encode(held_out)[:7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path, name):
    whole, _ = resumed(of(name), tmp_path)
    assert whole.variant.under_used().any()
