import pytest
import torch

from saeuron.sae.config import SAEConfig, TopKOptions
from saeuron.sae.training import Trainer
from tests.saeuron.sae.variants.reference import agree, gradients, quiet, slow_decode

SMALL = SAEConfig(variant="topk", expansion=6, k=3, batch=20, steps=1, dead_rows=128)
MULTI = SMALL.model_copy(update={"topk": TopKOptions(multi=1 / 8)})


def sample(rows=20, seed=1):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def slow_pre(v, x):
    """P, number by number."""
    return [[(row - v.b_dec) @ w + b for w, b in zip(v.W_enc, v.b_enc, strict=True)] for row in x]


def slow_codes(pre, k):
    """Of each row {latent: p} of its k largest, those above zero."""
    codes = []
    for row in pre:
        largest = sorted(range(len(row)), key=lambda i, row=row: -row[i].item())[:k]
        codes.append({i: row[i] for i in largest if row[i] > 0})
    return codes


def slow_variance(x):
    return sum((row - x.mean(0)).square().sum() for row in x)


def slow_aux_k(v, x, x_hat, dead):
    """The D / 2 largest dead p of each row, if above zero, predict what is missing; b_dec has no part in it."""
    pre = [[row[i] for i in dead] for row in slow_pre(v, x)]
    e_hat = [sum((f * v.W_dec[dead[j]] for j, f in code.items()), 0 * v.b_dec) for code in slow_codes(pre, 4)]
    error = sum((e - hat).square().sum() for e, hat in zip((x - x_hat).detach(), e_hat, strict=True))
    return min(1, len(dead) / 4) * error / slow_variance(x)


def slow_loss(v, x, multi, dead=()):
    """L(k) + multi L(4 k) + AuxK / 32, what it was made of first."""
    pre = slow_pre(v, x)
    codes = slow_codes(pre, v.config.k)
    x_hat = slow_decode(v, codes)
    loss = (x - x_hat).square().sum() / slow_variance(x)
    if multi:
        loss = loss + multi * (x - slow_decode(v, slow_codes(pre, 4 * v.config.k))).square().sum() / slow_variance(x)
    if dead:
        loss = loss + slow_aux_k(v, x, x_hat, dead) / 32
    return codes, x_hat, loss


@pytest.mark.parametrize("dead", [[], [7], [0, 3, 11, 30, 31, 47]], ids=len)
@pytest.mark.parametrize("less", [0.0, 1.5, 2.5])
@pytest.mark.parametrize("config", [SMALL, MULTI, MULTI.model_copy(update={"k": 13})], ids=["one", "multi", "all"])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path, config, less, dead):
    variant, x = quiet(random_variant(config, path=path), less), sample()
    codes, x_hat, expected = slow_loss(variant, x, config.topk.multi, dead)
    counts = [len(code) for code in codes]
    # Enough positive p in every row, or too few in some, or none in some.
    fewest = min(counts)
    assert {0.0: fewest >= 3, 1.5: fewest < 3, 2.5: fewest == 0}[less] and 0 < max(counts) <= config.k
    out = variant(x, 0)
    loss = out.loss
    if dead:
        mask = torch.zeros(48, dtype=torch.bool)
        mask[dead] = True
        loss = loss + config.auxk_alpha * variant.auxiliary(x, out.x_hat, mask)
    agree(out, loss, variant, codes, x_hat, expected)
    least = [min(f.item() for f in code.values()) for code in codes if code]
    assert out.least.item() == pytest.approx(sum(least) / len(least), rel=1e-12)


def test_the_second_loss_is_of_four_times_as_many_latents_and_counts_an_eighth(random_variant):
    x = sample()
    variant, one = random_variant(MULTI, path="fast"), random_variant(SMALL, path="fast")
    wide = random_variant(SMALL.model_copy(update={"k": 12}), path="fast")
    torch.testing.assert_close(variant(x, 0).loss, one(x, 0).loss + wide(x, 0).loss / 8, rtol=1e-12, atol=0)
    torch.testing.assert_close(variant(x, 0).x_hat, one(x, 0).x_hat, rtol=0, atol=0)
    assert not torch.allclose(one(x, 0).x_hat, wide(x, 0).x_hat)


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_without_a_positive_p_nothing_is_kept(random_variant, path):
    variant, x = quiet(random_variant(MULTI, path=path), 100.0), sample()
    out = variant(x, 0)
    assert out.active == 0 and not out.fired.any() and out.least == torch.inf
    assert torch.equal(out.x_hat, variant.b_dec.expand(20, 8))
    found = gradients(out.loss, variant)
    assert all(found[name].abs().sum() == 0 for name in ("W_enc", "b_enc", "W_dec"))
    torch.testing.assert_close(found["b_dec"], -2 * 9 / 8 * (x - variant.b_dec).sum(0).detach() / slow_variance(x))


def test_a_step_minimises_the_reference_with_aux_k(random_variant):
    dead, x = [0, 3, 11, 30, 31, 47], sample().float()
    trainer = Trainer(MULTI, 8, "")
    trainer.variant.load_state_dict(quiet(random_variant(MULTI), 1.5).state_dict())
    trainer.silent[dead] = MULTI.dead_rows
    reference = random_variant(MULTI)
    reference.load_state_dict({name: value.double() for name, value in trainer.variant.state_dict().items()})
    codes, _, expected = slow_loss(reference, x.double(), 1 / 8, dead)
    trainer.step(x)
    (point,) = trainer.history
    assert point.loss == pytest.approx(expected.item(), rel=1e-5)
    assert point.l0 == pytest.approx(sum(len(code) for code in codes) / 20)
    assert trainer.silent.tolist() == [
        0 if any(i in code for code in codes) else 20 + (MULTI.dead_rows if i in dead else 0) for i in range(48)
    ]


@pytest.mark.parametrize("inference", ["native", "threshold"])
def test_the_export_equals_the_reference(random_variant, inference):
    variant = quiet(random_variant(SMALL.model_copy(update={"inference": inference})), 1.5)
    variant.follow(torch.tensor(0.3, dtype=torch.float64), 0)
    sae, x = variant.export("h"), sample(40, seed=2)
    assert (sae.info.activation, sae.info.k) == ("topk" if inference == "native" else "threshold", 3)
    pre = slow_pre(variant, x)
    codes = slow_codes(pre, 3) if inference == "native" else [{i: p for i, p in enumerate(r) if p > 0.3} for r in pre]
    f = torch.zeros(40, 48)
    for b, code in enumerate(codes):
        for i, value in code.items():
            f[b, i] = value.item()
    torch.testing.assert_close(sae.encode(x.float()), f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(x.float()), slow_decode(variant, codes).float(), rtol=1e-4, atol=1e-5)
