import pytest
import torch

from saeuron.sae.config import SAEConfig
from saeuron.sae.training import Trainer
from tests.saeuron.sae.variants.reference import agree, gradients, quiet, slow_decode

SMALL = SAEConfig(variant="batch_topk", expansion=6, k=3, batch=20, steps=1, dead_rows=128)
WIDE = SMALL.model_copy(update={"expansion": 24, "k": 2})
"""Whose largest are found in two stages: 64 times as many as are kept are fewer than all."""


def sample(rows=20, seed=1):
    """Some rows are much longer than others, and so get more latents."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(rows, 8, generator=generator, dtype=torch.float64) + 0.5
    return found * torch.linspace(0.3, 2, rows, dtype=torch.float64)[:, None]


def slow_codes(v, x):
    """Of each row {latent: p}: the k B largest p of the batch, pair by pair, those above zero."""
    pre = [[(row - v.b_dec) @ w + b for w, b in zip(v.W_enc, v.b_enc, strict=True)] for row in x]
    ranked = sorted(((p.item(), b, i) for b, row in enumerate(pre) for i, p in enumerate(row)), reverse=True)
    codes = [{} for _ in x]
    for p, b, i in ranked[: v.config.k * len(x)]:
        if p > 0:
            codes[b][i] = pre[b][i]
    return pre, codes


def slow_loss(v, x, dead):
    """L + AuxK / 32, what it was made of first. AuxK: the D / 2 largest dead p of each row, without b_dec."""
    pre, codes = slow_codes(v, x)
    x_hat = slow_decode(v, codes)
    variance = sum((row - x.mean(0)).square().sum() for row in x)
    loss = (x - x_hat).square().sum() / variance
    for row, error in zip(pre, (x - x_hat).detach(), strict=True):
        largest = sorted(dead, key=lambda i, row=row: -row[i].item())[:4]
        e_hat = sum((row[i] * v.W_dec[i] for i in largest if row[i] > 0), 0 * v.b_dec)
        loss = loss + min(1, len(dead) / 4) / 32 * (error - e_hat).square().sum() / variance
    return codes, x_hat, loss


def values(codes):
    return [f.item() for code in codes for f in code.values()]


@pytest.mark.parametrize("dead", [[7], [0, 3, 11, 30, 31, 47]], ids=len)
@pytest.mark.parametrize("less", [0.0, 5.5])
@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["small", "wide"])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path, config, less, dead):
    variant, x = quiet(random_variant(config, path=path), less), sample()
    codes, x_hat, expected = slow_loss(variant, x, dead)
    counts = [len(code) for code in codes]
    # Rows use more and fewer than k; where too few p are positive there are fewer than k B in all.
    assert min(counts) < config.k < max(counts)
    assert sum(counts) == config.k * 20 if less == 0 else 0 in counts and 0 < sum(counts) < config.k * 20
    out = variant(x, 0)
    mask = torch.zeros(variant.n_latents, dtype=torch.bool)
    mask[dead] = True
    loss = out.loss + config.auxk_alpha * variant.auxiliary(x, out.x_hat, mask)
    agree(out, loss, variant, codes, x_hat, expected)
    assert out.least.item() == pytest.approx(min(values(codes)), rel=1e-12)


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_latents_that_a_row_keeps_depend_on_the_other_rows(random_variant, path):
    variant, x = random_variant(SMALL, path=path), sample()
    alone = [variant(row[None], 0).active for row in x]
    assert alone == [3] * 20
    kept = [len(code) for code in slow_codes(variant, x)[1]]
    for rows in (slice(0, 10), slice(10, 20)):
        assert variant(x[rows], 0).active == 30 != sum(kept[rows])


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_without_a_positive_p_nothing_is_kept(random_variant, path):
    variant, x = quiet(random_variant(SMALL, path=path), 100.0), sample()
    out = variant(x, 0)
    assert out.active == 0 and not out.fired.any() and out.least == torch.inf
    assert torch.equal(out.x_hat, variant.b_dec.expand(20, 8))
    found = gradients(out.loss, variant)
    assert all(found[name].abs().sum() == 0 for name in ("W_enc", "b_enc", "W_dec"))


def test_the_threshold_is_the_running_mean_of_the_least_kept(random_variant):
    variant, silent = random_variant(SMALL), quiet(random_variant(SMALL), 100.0)
    theta, seen = 0.0, []
    for step in range(130):
        x = sample(4, seed=step)
        if step == 7:
            # A batch of which nothing is kept says nothing.
            variant.follow(silent(x, step).least, step)
        else:
            variant.follow(variant(x, step).least, step)
            seen.append(min(values(slow_codes(variant, x)[1])))
            # The mean of all, and from the hundredth on of about the last hundred.
            share = 1 / (step + 1) if step < 100 else 1 / 100
            theta = (1 - share) * theta + share * seen[-1]
        assert variant.threshold.tolist() == pytest.approx([theta] * 48, rel=1e-12)
        if step == 6:
            assert theta == pytest.approx(sum(seen) / 7, rel=1e-12)
    assert len(set(seen)) == 129 and min(seen) < theta < max(seen)


def test_a_step_minimises_the_reference_with_aux_k(random_variant):
    dead, x = [0, 3, 11, 30, 31, 47], sample().float()
    trainer = Trainer(SMALL, 8, "")
    trainer.variant.load_state_dict(random_variant(SMALL).state_dict())
    trainer.silent[dead] = SMALL.dead_rows
    reference = random_variant(SMALL)
    reference.load_state_dict({name: value.double() for name, value in trainer.variant.state_dict().items()})
    codes, _, expected = slow_loss(reference, x.double(), dead)
    trainer.step(x)
    (point,) = trainer.history
    assert point.loss == pytest.approx(expected.item(), rel=1e-5)
    assert point.l0 == pytest.approx(3)
    assert trainer.silent.tolist() == [
        0 if any(i in code for code in codes) else 20 + (SMALL.dead_rows if i in dead else 0) for i in range(48)
    ]
    least = min(values(codes))
    assert trainer.sae.threshold.tolist() == pytest.approx([least] * 48, rel=1e-5)


def test_the_export_applies_the_threshold_row_by_row(random_variant):
    variant = random_variant(SMALL)
    variant.follow(torch.tensor(0.8, dtype=torch.float64), 0)
    sae, x = variant.export("h"), sample(40, seed=2)
    assert (sae.info.activation, sae.info.k, sae.info.hookpoint) == ("threshold", 3, "h")
    pre, _ = slow_codes(variant, x)
    codes = [{i: p for i, p in enumerate(row) if p > 0.8} for row in pre]
    f = torch.zeros(40, 48)
    for b, code in enumerate(codes):
        for i, value in code.items():
            f[b, i] = value.item()
    assert 0 < (f > 0).float().mean() < 1
    torch.testing.assert_close(sae.encode(x.float()), f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(x.float()), slow_decode(variant, codes).float(), rtol=1e-4, atol=1e-5)
