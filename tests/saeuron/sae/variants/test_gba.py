import pytest
import torch

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import GBAOptions, SAEConfig
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import resumed, rows

SMALL = SAEConfig(variant="gba", expansion=6, k=4, batch=64, steps=30, lr=1e-2, dead_rows=128)
PLANTED = SAEConfig(
    variant="gba", expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000, gba=GBAOptions(groups=1)
)


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path):
    variant = random_variant(SMALL, path=path)
    variant.threshold.copy_(torch.linspace(0, 3, 48))
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    out = variant(x, 0)
    W_enc, W_dec, b_dec = variant.W_enc, variant.W_dec, variant.b_dec
    pre, x_hat = torch.zeros(30, 48).double(), []
    for b in range(30):
        total = b_dec
        for i in range(48):
            p = W_enc[i] @ (x[b] - b_dec)
            pre[b, i] = p.detach()
            # The bias decides whether, and not how strongly.
            if p - variant.threshold[i] > 0:
                total = total + p * W_dec[i]
        x_hat.append(total)
    loss = ((x - torch.stack(x_hat)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    parameters = dict(variant.named_parameters())
    assert parameters.keys() == {"W_enc", "W_dec", "b_dec"}
    found = torch.autograd.grad(out.loss, list(parameters.values()))
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for name, a, b in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        assert a.abs().sum() > 0
    active = pre > variant.threshold
    assert out.active == int(active.sum()) > 0
    assert torch.equal(out.fired, active.any(0)) and not active.any(0).all()
    torch.testing.assert_close(out.least, torch.stack([active.double().mean(0), pre.amax(0)]))


def test_targets_fall_geometrically_and_sum_to_k():
    config = SAEConfig(variant="gba", expansion=10, k=4, gba=GBAOptions(groups=5, span=81))
    target = Trainer(config, 8, "").variant.target
    assert float(target.sum()) == pytest.approx(4)
    by_group = target.reshape(5, 16)
    assert torch.equal(by_group.amax(1), by_group.amin(1))
    torch.testing.assert_close(by_group[:-1, 0] / by_group[1:, 0], torch.full((4,), 3.0))
    # A latent that fires more than every other row is no feature.
    crowded = Trainer(config.model_copy(update={"k": 40}), 8, "").variant.target
    assert float(crowded.max()) == 0.5 and float(crowded.sum()) < 40


def test_biases_change_at_the_end_of_a_window_by_the_rule():
    config = SMALL.model_copy(update={"gba": GBAOptions(groups=2, span=4, window=3, rate=0.5)})
    variant = Trainer(config, 8, "").variant
    variant.threshold.fill_(2.0)
    generator = torch.Generator().manual_seed(0)
    counts = [torch.rand(48, generator=generator) / 4 for _ in range(3)]
    counts[0][:4], counts[1][:4], counts[2][:4] = 0, 0, torch.tensor([0.0, 0.1, 0.4, 0.9])
    peaks = [4 * torch.rand(48, generator=generator) - 1 for _ in range(3)]
    for step in range(3):
        assert variant.threshold.tolist() == [2.0] * 48
        variant.follow(torch.stack([counts[step], peaks[step]]), step)
    slow = []
    for i in range(48):
        group = range(24) if i < 24 else range(24, 48)
        peak = sum(max(0, *(float(p[j]) for p in peaks)) for j in group) / 24
        q = sum(float(c[i]) for c in counts) / 3
        target = (8 / 5 if i < 24 else 2 / 5) * 4 / 48
        slow.append(max(0, 2 + 0.5 * peak * min(1, max(-1, q / target - 1))))
    assert variant.threshold.tolist() == pytest.approx(slow, rel=1e-5)
    # Silent: all the way down. Three times the target and more: all the way up. Between them: by how far it is off.
    assert slow[0] < slow[1] < 2 < slow[3]
    assert variant.frequency.abs().sum() == variant.peak.abs().sum() == 0


def test_latents_fire_as_often_as_their_group_should(recovered):
    config = PLANTED.model_copy(update={"steps": 300, "gba": GBAOptions(groups=4, span=8)})
    sae, _, held_out = recovered(config)
    frequency = (sae.encode(held_out) > 0).float().mean(0).reshape(4, 8)
    target = Trainer(config, 16, "").variant.target.reshape(4, 8)
    torch.testing.assert_close(frequency.mean(1), target.mean(1), rtol=0.3, atol=0)
    # Targets are 2 apart, so the groups do not overlap.
    assert (frequency[:-1].mean(1) > 1.5 * frequency[1:].mean(1)).all()


def test_planted_directions_are_recovered_with_k_active_at_inference(recovered):
    # Equally frequent directions: one group, whose target is how often they occur.
    sae, cosine, held_out = recovered(PLANTED)
    assert cosine > 0.93
    assert sae.info.activation == "threshold"
    found = quality(sae, iter(held_out.split(512)))
    assert found.l0 == pytest.approx(3, rel=0.1)
    assert found.fvu < 0.2


def test_training_starts_at_the_targets():
    for scale in (1.0, 1000.0):
        trainer = Trainer(SMALL, 8, "")
        x = scale * torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        trainer.initialise(x)
        out = trainer.variant(x, 0)
        assert out.active / 2000 == pytest.approx(4, rel=0.02)
        torch.testing.assert_close(out.least[0], trainer.variant.target, rtol=0, atol=1.5 / 2000)


def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path):
    whole, first = resumed(SMALL, tmp_path)
    # In the middle of a window.
    assert float(first.variant.frequency.sum()) > 0
    assert whole.history[-1].dead > 0


def test_the_saved_sae_does_what_training_does(tmp_path, random_variant):
    variant = random_variant(SMALL).float()
    variant.threshold.copy_(torch.linspace(0, 3, 48))
    variant.export("h").save(tmp_path)
    sae = SAE.load(tmp_path)
    x = rows(1)[0].float()
    f, pre = sae.encode(x), (x - variant.b_dec) @ variant.W_enc.T
    torch.testing.assert_close(f, pre * (pre > variant.threshold))
    torch.testing.assert_close(sae(x), variant(x, 0).x_hat)
    torch.testing.assert_close(f[:5], sae.encode(x[:5]))
