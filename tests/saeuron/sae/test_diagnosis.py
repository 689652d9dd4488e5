from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.hooks import attached, to_rows
from saeuron.noise import generator
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.dark_matter import dark_matter, errors, predict
from saeuron.sae.diagnosis.denoising import Loss, denoising_losses, recovered
from saeuron.sae.diagnosis.dictionary import chance, nearest, neighbours
from saeuron.sae.moments import Moments, fvu, pooled
from saeuron.sae.pursuit import gradient_pursuit

MAP, SEQUENCE = "unet.up_blocks.1.attentions.0", "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2"
MODEL = ModelConfig(steps=2, micro_batch=2)
IMAGES = [Request(Prompt(f"A {word}.", "test"), 0) for word in ("cat", "moon", "star")]


def random_sae(width=6, latents=14, seed=0, hookpoint="", threshold=0.3):
    sae = SAE(SAEInfo("batch_topk", width, latents, 3, hookpoint), seed)
    with torch.no_grad():
        sae.b_dec.copy_(torch.randn(width, generator=generator(seed)) / 4)
        sae.W_dec.copy_(torch.randn(latents, width, generator=generator(seed, 1)))
        sae.threshold.fill_(threshold)
    return sae.requires_grad_(False)


def identity_sae(width, hookpoint):
    """x_hat = x: latents for both signs of each direction, all of which may fire."""
    sae = SAE(SAEInfo("topk", width, 2 * width, 2 * width, hookpoint, "topk"))
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    return SAE.of(sae.info, {**sae.state_dict(), "W_enc": both, "W_dec": both.clone()})


class TestMoments:
    def test_are_the_slow_sums(self):
        sae, x = random_sae(), torch.randn(3, 5, 6) + 2
        f = sae.encode(x)
        found = Moments.of(x, f, sae.decode(f))
        rows = [x[i, j].double() for i in range(3) for j in range(5)]
        mean = sum(rows) / 15
        error = sum(float((r - sae(r.float()).double()).square().sum()) for r in rows)
        variance = sum(float((r - mean).square().sum()) for r in rows)
        assert found.rows == 15
        assert found.fvu == pytest.approx(error / variance, rel=1e-6)
        assert found.relative == pytest.approx(error / sum(float(r.square().sum()) for r in rows), rel=1e-6)
        assert found.l0 == sum(int((sae.encode(r.float()) != 0).sum()) for r in rows) / 15
        assert 0 < found.l0 < 14

    @given(st.lists(st.integers(1, 9), max_size=3))
    def test_any_parts_add_to_the_whole(self, cuts):
        sae, x = random_sae(), torch.randn(10, 6, generator=generator(1)) + 1
        f, x_hat = sae.encode(x), sae(x)
        edges = sorted({0, 10, *cuts})
        parts = [Moments.of(x[a:b], f[a:b], x_hat[a:b]) for a, b in pairwise(edges)]
        whole = Moments.of(x, f, x_hat)
        assert pooled(parts).fvu == pytest.approx(whole.fvu, rel=1e-12)
        assert pooled(parts).l0 == whole.l0
        assert whole.fvu == pytest.approx(fvu(x, x_hat), rel=1e-9)

    def test_the_mean_is_that_of_the_whole_set(self):
        # Two groups about different means: the mean of their FVUs is not the FVU of both.
        x = torch.cat([torch.randn(50, 4) - 5, torch.randn(50, 4) + 5])
        x_hat, f = x + 0.5 * torch.randn(100, 4), torch.ones(100, 3)
        parts = [Moments.of(x[:50], f[:50], x_hat[:50]), Moments.of(x[50:], f[50:], x_hat[50:])]
        assert pooled(parts).fvu < 0.1 * min(p.fvu for p in parts)


class TestDictionary:
    @pytest.mark.parametrize("chunk", [3, 2048])
    def test_nearest_is_the_slow_search(self, chunk, monkeypatch):
        monkeypatch.setattr("saeuron.sae.diagnosis.dictionary._CHUNK", chunk)
        one, two = torch.randn(11, 5, generator=generator(2)) * 3, torch.randn(7, 5, generator=generator(3))

        def cosine(a, b):
            return float(torch.dot(a.double(), b.double()) / a.double().norm() / b.double().norm())

        within, between = nearest(one), nearest(one, two)
        for i in range(11):
            best = max((j for j in range(11) if j != i), key=lambda j: cosine(one[i], one[j]))
            assert within.latent[i] == best and float(within.cosine[i]) == pytest.approx(cosine(one[i], one[best]))
            best = max(range(7), key=lambda j: cosine(one[i], two[j]))
            assert between.latent[i] == best and float(between.cosine[i]) == pytest.approx(cosine(one[i], two[best]))

    def test_the_same_dictionary_in_another_order_is_found_again(self):
        rows, order = torch.randn(20, 8), torch.randperm(20)
        found = nearest(rows[order] * 2, rows)
        assert torch.equal(found.latent, order)
        torch.testing.assert_close(found.cosine, torch.ones(20))

    def test_chance_is_what_random_rows_share(self):
        drawn = [torch.randn(2, 30, 6, generator=generator("another", i)) for i in range(200)]
        slow = sum(float(nearest(one, two).cosine.mean()) for one, two in drawn) / 200
        assert chance(30, 30, 6) == chance(30, 30, 6) == pytest.approx(slow, abs=0.06)
        assert chance(30, 300, 6) > chance(30, 30, 6) > chance(30, 30, 60)

    def test_neighbours_come_nearest_first_and_leave_out_the_latent(self):
        rows = torch.tensor([[1.0, 0], [0, 1], [2, 1], [-1, 0], [3, 0.1]])
        found = neighbours(rows, 0, 3)
        assert [i for i, _ in found] == [4, 2, 1]
        assert found[1][1] == pytest.approx(2 / 5**0.5)
        assert len(neighbours(rows, 0, 99)) == 4


class TestLeastSquares:
    def test_is_the_slow_solution(self):
        x, y = torch.randn(60, 4, generator=generator(4)) + 3, torch.randn(60, 2, generator=generator(5))
        found = predict(x[:40], y[:40], x[40:])
        assert found is not None
        wide = np.concatenate([x.double().numpy(), np.ones((60, 1))], axis=1)
        a, b = wide[:40].T @ wide[:40], wide[:40].T @ y[:40].double().numpy()
        np.testing.assert_allclose(found.numpy(), wide[40:] @ np.linalg.solve(a, b), rtol=1e-7, atol=1e-9)

    def test_columns_that_depend_on_one_another(self):
        x = torch.randn(50, 3)
        x = torch.cat([x, x[:, :1] + x[:, 1:2], torch.ones(50, 1)], dim=1)
        y = x @ torch.randn(5, 2) + 1
        found = predict(x[:30], y[:30], x[30:])
        torch.testing.assert_close(found, y[30:].double(), rtol=1e-4, atol=1e-4)

    def test_too_few_rows_say_nothing(self):
        assert predict(torch.randn(5, 4), torch.randn(5, 1), torch.randn(3, 4)) is None
        assert predict(torch.randn(6, 4), torch.randn(6, 1), torch.randn(3, 4)) is not None


class TestDarkMatter:
    def rows(self, count=400):
        return torch.randn(count, 6, generator=generator(6)) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.5]) + 1

    def fit(self, count=400):
        return torch.arange(count) % 2 == 0

    def test_the_formulas(self):
        x, fit = self.rows(), self.fit()
        x_hat, counts = random_sae()(x), torch.randint(0, 5, (400,))
        found = errors(x, x_hat, counts, fit)
        e = (x.double() - x_hat.double()).numpy()
        wide = np.concatenate([x.double().numpy(), np.ones((400, 1))], axis=1)
        keep = fit.numpy()
        slope = np.linalg.lstsq(wide[keep], e[keep], rcond=None)[0]
        left = e[~keep] - wide[~keep] @ slope
        assert found.linear == pytest.approx(1 - (left**2).sum() / (e[~keep] ** 2).sum(), abs=1e-9)
        norms = (e**2).sum(1)
        slope = np.linalg.lstsq(wide[keep], norms[keep], rcond=None)[0]
        residual = norms[~keep] - wide[~keep] @ slope
        spread = norms[~keep] - norms[~keep].mean()
        assert found.norm == pytest.approx(1 - (residual**2).sum() / (spread**2).sum(), abs=1e-9)
        test = x[~fit].double().numpy()
        assert found.fvu == pytest.approx((e[~keep] ** 2).sum() / ((test - test.mean(0)) ** 2).sum(), rel=1e-9)
        assert found.l0 == float(counts[~fit].double().mean())
        assert found.fvu_linear == pytest.approx(found.fvu * found.linear)

    def test_an_error_that_is_linear_and_one_that_is_chance(self):
        x, fit, none = self.rows(), self.fit(), torch.zeros(400)
        shrunk = errors(x, 0.7 * x + 0.1, none, fit)
        assert shrunk.linear == pytest.approx(1, abs=1e-6) and shrunk.norm < 0.9
        noisy = errors(x, x + torch.randn(400, 6, generator=generator(7)), none, fit)
        assert (noisy.linear or 0) < 0.1 and (noisy.norm or 0) < 0.2
        mixed = errors(x, 0.7 * x + 0.3 * x.std(0) * torch.randn(400, 6, generator=generator(8)), none, fit)
        assert 0.3 < mixed.linear < 0.85

    def test_a_fit_that_does_not_hold_on_other_rows_says_nothing(self):
        x, fit = self.rows()[:24], self.fit()[:24]
        found = errors(x, x + torch.randn(24, 6, generator=generator(9)), torch.zeros(24), fit)
        assert found.linear is None and found.fvu_linear is None

    def test_pursuit_has_the_encoders_budget_row_by_row(self, monkeypatch):
        monkeypatch.setattr("saeuron.sae.diagnosis.dark_matter._CHUNK", 64)
        sae, x, fit = random_sae(threshold=0.6), self.rows(), self.fit()
        found = dark_matter(sae, x, fit)
        counts = (sae.encode(x) != 0).sum(1)
        assert len(counts.unique()) > 2
        codes = gradient_pursuit(x - sae.b_dec, sae.W_dec, counts)
        assert found.pursuit.fvu == pytest.approx(fvu(x[~fit], sae.decode(codes)[~fit]), rel=1e-5)
        assert found.encoder.fvu == pytest.approx(fvu(x[~fit], sae(x)[~fit]), rel=1e-5)
        assert found.pursuit.l0 <= found.encoder.l0 == float(counts[~fit].double().mean())
        # An untrained encoder leaves much to recover.
        assert found.pursuit.fvu < 0.8 * found.encoder.fvu
        assert (found.fit_rows, found.test_rows) == (200, 200)

    def test_too_few_rows(self):
        found = dark_matter(random_sae(), self.rows(10), self.fit(10))
        assert found.encoder.linear is found.encoder.norm is found.encoder.fvu_linear is None
        assert found.encoder.fvu > 0


def slow_losses(pipe, sae, config):
    """One image, one half, one timestep at a time; the module's forward is replaced by hand."""
    module = pipe.unet.get_submodule(sae.info.hookpoint.removeprefix("unet."))
    found, original = {}, module.forward

    def patched(kind):
        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            tensor = out if isinstance(out, torch.Tensor) else out[0]
            base = args[0] if config.read == "update" else torch.zeros_like(tensor)
            x = tensor - base
            new = torch.zeros_like(x)
            if kind == "sae" and x.ndim == 4:
                for at in np.ndindex(x.shape[0], *x.shape[2:]):
                    new[at[0], :, at[1], at[2]] = sae(x[at[0], :, at[1], at[2]])
            elif kind == "sae":
                for at in np.ndindex(*x.shape[:2]):
                    new[at] = sae(x[at])
            new = new + base
            return new if isinstance(out, torch.Tensor) else (new,)

        return forward

    for request in IMAGES:
        [(_, pictures)] = generate(pipe, [request], MODEL, config.seed)
        z = pipe.vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
        positive, negative = pipe.encode_prompt([request.prompt.text], "cpu", 1, True)
        for t in pipe.scheduler.timesteps.tolist():
            noise = torch.randn(z.shape[1:], generator=generator(config.seed, "loss", request.key, t))
            a = float(pipe.scheduler.alphas_cumprod[t])
            noised = a**0.5 * z + (1 - a) ** 0.5 * noise
            for half, words in (("conditional", positive), ("unconditional", negative)):
                for kind in ("clean", "sae", "zero"):
                    module.forward = original if kind == "clean" else patched(kind)
                    try:
                        with torch.no_grad():
                            v = pipe.unet(noised, t, encoder_hidden_states=words).sample
                    finally:
                        module.forward = original
                    guess = a**0.5 * v + (1 - a) ** 0.5 * noised
                    found.setdefault((t, half, kind), []).append(float((guess - noise).square().mean()))
    return {key: sum(values) / len(values) for key, values in found.items()}


class TestDenoisingLoss:
    @pytest.mark.parametrize(
        ("path", "width", "read"), [(MAP, 16, "output"), (SEQUENCE, 32, "output"), (MAP, 16, "update")]
    )
    def test_is_the_slow_reference(self, make_pipe, path, width, read):
        pipe, config = make_pipe(), DiagnosisConfig(read=read)
        sae = random_sae(width, 24, hookpoint=path)
        losses = denoising_losses(pipe, sae, IMAGES, MODEL, config)
        assert [(loss.timestep, loss.half) for loss in losses] == [
            (999, "conditional"), (999, "unconditional"), (499, "conditional"), (499, "unconditional"),
        ]  # fmt: skip
        slow = slow_losses(pipe, sae, config)
        for loss in losses:
            for kind in ("clean", "sae", "zero"):
                expected = slow[loss.timestep, loss.half, kind]
                assert getattr(loss, kind) == pytest.approx(expected, rel=1e-4), (loss.timestep, kind)
        assert abs(losses[2].sae - losses[2].clean) > 1e-4 * losses[2].clean
        # Nothing stays attached.
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())

    def test_a_perfect_sae_recovers_all_and_one_that_gives_nothing_none(self, tiny_pipe):
        perfect = identity_sae(16, MAP)
        losses = denoising_losses(tiny_pipe, perfect, IMAGES[:2], MODEL, DiagnosisConfig())
        for loss in losses:
            assert loss.sae == pytest.approx(loss.clean, rel=1e-5)
        silent = SAE.of(perfect.info, {**perfect.state_dict(), "W_dec": torch.zeros(32, 16)})
        for loss in denoising_losses(tiny_pipe, silent, IMAGES[:2], MODEL, DiagnosisConfig()):
            assert loss.sae == loss.zero != loss.clean

    def test_without_guidance_there_is_one_half(self, tiny_pipe):
        model = MODEL.model_copy(update={"guidance": 1.0})
        losses = denoising_losses(tiny_pipe, identity_sae(16, MAP), IMAGES[:1], model, DiagnosisConfig())
        assert {loss.half for loss in losses} == {"conditional"}

    def test_timesteps_are_evenly_spaced(self, tiny_pipe):
        model, config = MODEL.model_copy(update={"steps": 8}), DiagnosisConfig(loss_steps=3)
        losses = denoising_losses(tiny_pipe, identity_sae(16, MAP), IMAGES[:1], model, config)
        every = [999 - 125 * i for i in range(8)]
        assert [loss.timestep for loss in losses if loss.half == "conditional"] == [every[0], every[4], every[7]]

    def test_recovered(self):
        losses = [Loss(900, "conditional", 1.0, 2.0, 5.0), Loss(100, "conditional", 1.0, 4.0, 3.0)]
        # The sums are divided, not the ratios averaged: (8 - 6) / (8 - 2).
        assert recovered(losses) == pytest.approx(1 / 3)
        assert recovered([Loss(900, "conditional", 1.0, 2.0, 1.0)]) is None


def test_rows_of_the_reference_are_those_of_the_hook(tiny_pipe):
    # The slow losses above read maps position by position; `to_rows` must agree with that order.
    seen = []
    with attached(tiny_pipe, readers={MAP: lambda step, output, source: seen.append(output)}):
        list(generate(tiny_pipe, IMAGES[:1], MODEL, 0))
    assert torch.equal(to_rows(seen[0])[0, 8 * 3 + 5], seen[0][0, :, 3, 5])
