import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from saeuron.errors import ConfigError, SaeuronError
from saeuron.sae.config import SAEConfig, TopKOptions
from saeuron.sae.losses import aux_k, fvu, geometric_median
from saeuron.sae.training import Trainer, learning_rate, quality, together, train

VARIANTS = ("topk", "batch_topk")
WIDTH = 8
SMALL = SAEConfig(expansion=6, k=2, batch=32, steps=30, lr=1e-2, dead_rows=64, checkpoint_every=13, warmup=3)


def batches(count=30, rows=32, width=WIDTH):
    """Rows whose later half lives in a subspace, so that latents die and AuxK has work."""
    noise = np.random.default_rng(0).normal(size=(count, rows, width)).astype(np.float16)
    noise[count // 3 :, :, width // 2 :] *= 0.05
    return noise


def stream_of(data, stop=None):
    """stream(b) over `data`; raises at batch `stop`, as an interrupted run would."""

    def stream(start):
        for i in range(start, len(data)):
            if i == stop:
                raise KeyboardInterrupt
            yield data[i]

    return stream


def state(trainer):
    tensors = dict(trainer.variant.state_dict()) | {"silent": trainer.silent}
    for i, moments in trainer.update.optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{name}": value for name, value in moments.items()}
    return tensors


# The formulas


def slow_aux_k(x, x_hat, pre, dead, W_dec):
    """The obvious formula, float64, latent by latent."""
    dead = [i for i in range(pre.shape[1]) if dead[i]]
    wanted = x.shape[1] // 2
    total = 0
    for b in range(len(x)):
        best = sorted(dead, key=lambda i: -pre[b, i].item())[: min(wanted, len(dead))]
        e_hat = sum((torch.relu(pre[b, i]) * W_dec[i] for i in best), torch.zeros_like(x[b]))
        total = total + ((x[b] - x_hat[b]).detach() - e_hat).square().sum()
    return min(1.0, len(dead) / wanted) * total / ((x - x.mean(0)) ** 2).sum()


@pytest.mark.parametrize("dead", [1, 3, 4, 9, 20])
def test_aux_k_and_its_gradients_are_the_slow_reference(dead):
    generator = torch.Generator().manual_seed(dead)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, x_hat = random(7, WIDTH), random(7, WIDTH)
    mask = torch.zeros(20, dtype=torch.bool)
    mask[torch.randperm(20, generator=generator)[:dead]] = True
    found, expected = [], []
    pre, W_dec = random(7, 20), random(20, WIDTH)
    for formula, out in ((aux_k, found), (slow_aux_k, expected)):
        p, w = pre.clone().requires_grad_(), W_dec.clone().requires_grad_()
        loss = formula(x, x_hat, p, mask, w) if formula is slow_aux_k else formula(x, x_hat, p[:, mask], w[mask])
        out += [loss, *torch.autograd.grad(loss, (p, w))]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert found[0] > 0
    assert found[1][:, mask].abs().sum() > 0
    assert found[1][:, ~mask].abs().sum() == 0


def test_aux_k_predicts_a_detached_residual_without_b_dec():
    sae = Trainer(SMALL, WIDTH, "").variant.requires_grad_(True)
    with torch.no_grad():
        sae.b_dec.fill_(3.0)
    x, pre = torch.randn(7, WIDTH), torch.randn(7, 48).requires_grad_()
    x_hat = torch.relu(torch.randn(7, 48)) @ sae.W_dec + sae.b_dec
    loss = aux_k(x, x_hat, pre, sae.W_dec.detach())
    loss.backward()
    assert sae.b_dec.grad is None
    # With latents that are all off nothing is predicted, not even b_dec: what is left is the residual.
    off = aux_k(x, x_hat, -torch.ones(7, 48), sae.W_dec)
    torch.testing.assert_close(off, fvu(x, x_hat))


def test_aux_k_without_dead_latents_is_zero():
    x = torch.randn(7, WIDTH)
    assert aux_k(x, x * 0, torch.randn(7, 0), torch.randn(0, WIDTH)) == 0


def test_fvu_is_the_formula():
    x, x_hat = np.random.default_rng(0).normal(size=(2, 9, 4))
    slow = sum((x[b, d] - x_hat[b, d]) ** 2 for b in range(9) for d in range(4)) / sum(
        (x[b, d] - x[:, d].mean()) ** 2 for b in range(9) for d in range(4)
    )
    assert float(fvu(torch.tensor(x), torch.tensor(x_hat))) == pytest.approx(slow, rel=1e-12)
    mean = torch.tensor(x).mean(0).expand(9, 4)
    assert float(fvu(torch.tensor(x), mean)) == pytest.approx(1)
    assert float(fvu(torch.tensor(x), torch.tensor(x))) == 0


def test_geometric_median_minimises_the_summed_distance_and_shrugs_off_outliers():
    x = torch.randn(101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:10] += 1000
    centre = geometric_median(x)
    here = (x - centre).norm(dim=1).sum()
    for direction in torch.eye(3, dtype=torch.float64):
        assert (x - centre - 0.05 * direction).norm(dim=1).sum() > here
        assert (x - centre + 0.05 * direction).norm(dim=1).sum() > here
    assert centre.norm() < 1
    assert x.mean(0).norm() > 50


@pytest.mark.parametrize(("schedule", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, halfway):
    config = SAEConfig(lr=2.0, warmup=10, steps=110, schedule=schedule)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(2.0 * halfway)
    if schedule == "constant":
        assert set(rates[10:]) == {2.0}
    else:
        assert all(b < a for a, b in pairwise(rates[10:]))
        assert 0 < rates[-1] < 0.03
        assert learning_rate(config, 110) == pytest.approx(0)
    quarter = learning_rate(config, 35)
    expected = {"linear": 1.5, "cosine": 1 + math.cos(math.pi / 4), "constant": 2.0}
    assert quarter == pytest.approx(expected[schedule])


# Steps


@pytest.mark.parametrize("dead", [0, 1, 9])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fast_path_is_the_plain_one_gradients_included(variant, dead):
    config = SMALL.model_copy(update={"variant": variant, "topk": TopKOptions(multi=0.125)})
    x = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    found = []
    for path in ("fast", "plain"):
        variant_ = Trainer(config, WIDTH, "", path=path).variant.double()
        assert variant_.fast == (path == "fast")
        with torch.no_grad():
            noise = torch.Generator().manual_seed(4)
            variant_.W_enc += 0.3 * torch.randn(48, WIDTH, generator=noise)
            variant_.b_enc.normal_(generator=noise)
            variant_.b_dec.normal_(generator=noise)
        out = variant_(x, 0)
        mask = torch.arange(48) < dead
        loss = out.loss + variant_.auxiliary(x, out.x_hat, mask)
        gradients = torch.autograd.grad(loss, list(variant_.parameters()))
        found.append([loss, out.x_hat, out.fired, torch.tensor(out.active), out.least, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all(float(g.abs().sum()) > 0 for g in found[0][5:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_rows_keep_unit_norm(variant):
    trainer = Trainer(SMALL.model_copy(update={"variant": variant}), WIDTH, "")
    before = trainer.sae.W_dec.detach().clone()
    for rows in batches(5):
        trainer.step(torch.from_numpy(rows))
        torch.testing.assert_close(trainer.variant.W_dec.norm(dim=1), torch.ones(48), rtol=0, atol=1e-6)
    assert (trainer.sae.W_dec - before).abs().max() > 0.01


def test_the_gradient_along_a_decoder_row_is_removed():
    trainer = Trainer(SMALL, WIDTH, "")
    W = trainer.variant.W_dec
    W.grad = torch.randn_like(W)
    before = W.grad.clone()
    trainer.variant.project_gradients()
    torch.testing.assert_close((W.grad * W).sum(1), torch.zeros(48), rtol=0, atol=1e-6)
    along = (before * W).sum(1, keepdim=True) * W
    torch.testing.assert_close(W.grad + along, before)


def test_the_threshold_is_the_running_mean_of_the_least_kept_activation():
    trainer = Trainer(SMALL, WIDTH, "")
    leasts = []
    for rows in batches(10):
        x = torch.from_numpy(rows)
        with torch.no_grad():
            pre = (x.float() - trainer.variant.b_dec) @ trainer.variant.W_enc.T + trainer.variant.b_enc
        leasts.append(sorted(pre.relu().flatten().tolist())[-2 * 32])
        trainer.step(x)
    assert len(set(leasts)) > 1
    assert trainer.sae.threshold.tolist() == pytest.approx([np.mean(leasts)] * 48, rel=1e-5)


def test_topk_can_use_a_threshold_at_inference():
    config = SMALL.model_copy(update={"variant": "topk", "steps": 200})
    data = torch.from_numpy(batches(200))
    trainers = [Trainer(config.model_copy(update={"inference": i}), WIDTH, "") for i in ("native", "threshold")]
    for trainer in trainers:
        for rows in data:
            trainer.step(rows)
    native, fixed = (t.sae for t in trainers)
    assert (native.info.activation, fixed.info.activation) == ("topk", "threshold")
    assert torch.equal(native.threshold, fixed.threshold) and float(fixed.threshold.min()) > 0
    x = data[-50:].flatten(0, 1).float()
    active = (fixed.encode(x) > 0).sum(1).float()
    assert active.mean() == pytest.approx(2, rel=0.3)
    assert active.std() > 0


def test_silence_is_counted_in_rows():
    trainer = Trainer(SMALL, WIDTH, "")
    with torch.no_grad():
        trainer.variant.b_enc[5] = -100
    for rows in batches(3):
        trainer.step(torch.from_numpy(rows))
    assert int(trainer.silent[5]) == 96
    assert int(trainer.silent.min()) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_number_that_is_not_finite_ends_the_training(tmp_path, variant):
    """No SAE of nothing but NaN is called trained, and no retry would help."""
    data = batches(30)
    data[7, 3, 1] = np.inf
    config = SMALL.model_copy(update={"variant": variant, "steps": 30})
    with pytest.raises(ConfigError, match=r"training h diverged by step 20: FVU nan.*expected finite numbers"):
        train(config, stream_of(data), WIDTH, "h", checkpoint=tmp_path / "c")


@pytest.mark.parametrize("variant", ["jumprelu", "vsae", "ra_sae", "gated", "gba"])
def test_rows_that_are_all_alike_leave_nothing_that_is_not_finite(tmp_path, variant):
    data = np.ones((20, 32, WIDTH), np.float16)
    config = SMALL.model_copy(update={"variant": variant, "steps": 20})
    trainer = train(config, stream_of(data), WIDTH, "", checkpoint=tmp_path / "c")
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.variant.state_dict().values())


def test_checkpoints_are_put_off_where_they_take_long(tmp_path, monkeypatch):
    """Each takes a second, a step a tenth: so there is one in 180 steps, not one in ten."""
    now, saved = [0.0], []

    def step(trainer, rows):
        now[0] += 0.11
        trainer.step_index += 1

    def save(trainer, path):
        now[0] += 1.0
        saved.append(trainer.step_index)

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(Trainer, "save", save)
    now[0] = 1e6
    trainer = Trainer(SMALL.model_copy(update={"steps": 600, "checkpoint_every": 10}), WIDTH, "")
    data = np.zeros((1, 32, WIDTH), np.float16)
    together([trainer], lambda start: iter(data.repeat(600, 0)), {0: tmp_path / "c"})
    assert saved == [10, 190, 370, 550]


def test_b_dec_starts_at_the_geometric_median(tmp_path):
    data = batches(2)
    trainer = train(
        SMALL.model_copy(update={"steps": 1, "lr": 1e-12}), stream_of(data), WIDTH, "", checkpoint=tmp_path / "c"
    )
    torch.testing.assert_close(trainer.sae.b_dec, geometric_median(torch.from_numpy(data[0]).float()))


# Resuming


@pytest.mark.parametrize("variant", VARIANTS)
def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path, variant):
    config, data = SMALL.model_copy(update={"variant": variant}), torch.from_numpy(batches())
    whole = Trainer(config, WIDTH, "h")
    whole.initialise(data[0])
    for rows in data:
        whole.step(rows)
    # The comparison is of a run in which AuxK was at work.
    assert all(point.dead > 0 and point.loss > point.fvu for point in whole.history)

    first = Trainer(config, WIDTH, "h")
    first.initialise(data[0])
    for rows in data[:13]:
        first.step(rows)
    first.save(tmp_path / "c")
    second = Trainer(config, WIDTH, "h")
    second.load(tmp_path / "c")
    for rows in data[13:]:
        second.step(rows)
    assert state(second).keys() == state(whole).keys()
    assert all(torch.equal(value, state(second)[name]) for name, value in state(whole).items())
    assert second.history == whole.history
    assert [p.step for p in whole.history] == [20, 30]
    assert (whole.history[0].rows, second.step_index) == (640, 30)
    whole.save(tmp_path / "whole")
    second.save(tmp_path / "second")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_interrupted_run_ends_the_same(tmp_path):
    data, points = batches(), []
    whole = train(SMALL, stream_of(data), WIDTH, "h", checkpoint=tmp_path / "a", report=points.append)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, stream_of(data, stop=17), WIDTH, "h", checkpoint=tmp_path / "b")
    again = train(SMALL, stream_of(data), WIDTH, "h", checkpoint=tmp_path / "b")
    assert all(torch.equal(value, state(again)[name]) for name, value in state(whole).items())
    assert whole.history == again.history == points
    # A run that is over does nothing more.
    over = train(SMALL, stream_of(data), WIDTH, "h", checkpoint=tmp_path / "b")
    assert over.step_index == 30
    assert all(torch.equal(value, state(over)[name]) for name, value in state(whole).items())


def test_a_checkpoint_of_another_configuration(tmp_path):
    Trainer(SMALL, WIDTH, "h").save(tmp_path / "c")
    with pytest.raises(SaeuronError, match="checkpoint of another configuration"):
        Trainer(SMALL.model_copy(update={"lr": 2e-2}), WIDTH, "h").load(tmp_path / "c")


# What training is for


def planted(count, generator, features, active=3):
    """Rows that are sums of a few of the `features` [M, D], with positive strengths."""
    which = torch.rand(count, len(features), generator=generator).argsort(1)[:, :active]
    strengths = 1 + torch.rand(count, active, generator=generator)
    codes = torch.zeros(count, len(features)).scatter(1, which, strengths)
    return codes @ features + 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_planted_dictionary_is_recovered(tmp_path, variant):
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    config = SAEConfig(variant=variant, expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)
    data = planted(256 * 600, generator, features).reshape(600, 256, 16).half().numpy()
    sae = train(config, stream_of(data), 16, "", checkpoint=tmp_path / "c").sae
    best = (features @ sae.W_dec.T).amax(1)
    untrained = (features @ Trainer(config, 16, "").sae.W_dec.T).amax(1)
    assert untrained.mean() < 0.65
    assert best.mean() > 0.9
    held_out = quality(sae, iter(planted(4096, generator, features).split(512)))
    assert held_out.fvu < 0.2
    assert 1.5 < held_out.l0 < 4.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_quality_is_the_one_shot_formula_over_the_whole_set(variant):
    trainer = Trainer(SMALL.model_copy(update={"variant": variant}), WIDTH, "")
    for rows in batches(10):
        trainer.step(torch.from_numpy(rows))
    sae = trainer.sae
    with torch.no_grad():
        sae.b_enc[7] = -100
    # Batches of unequal size and variance: an average of their FVUs would be far off.
    x = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(1)) + 3
    x[:10] *= 0.1
    parts = x.split([10, 90, 200])
    found = quality(sae, iter(parts))
    with torch.no_grad():
        latents, x_hat = sae.encode(x), sae(x)
    assert found.fvu == pytest.approx(float(fvu(x.double(), x_hat.double())), rel=1e-5)
    assert found.l0 == pytest.approx(float((latents > 0).sum()) / 300)
    never = float((~(latents > 0).any(0)).double().mean())
    assert found.never == pytest.approx(never)
    assert never >= 1 / 48
    with torch.no_grad():
        mean_of_batches = np.mean([float(fvu(p, sae(p))) for p in parts])
    assert abs(mean_of_batches - found.fvu) > 0.05 * found.fvu
