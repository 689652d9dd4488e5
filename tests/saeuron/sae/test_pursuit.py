from itertools import pairwise

import pytest
import torch

from saeuron.sae.pursuit import gradient_pursuit


def problem(rows=40, latents=48, width=16, k=4, seed=0, norm=True, dtype=torch.float64):
    """A random dictionary and rows that are sparse, not negative codes of it, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(latents, width, generator=generator, dtype=dtype)
    if norm:
        dictionary /= dictionary.norm(dim=1, keepdim=True)
    codes = torch.zeros(rows, latents, dtype=dtype)
    for row in codes:
        row[torch.randperm(latents, generator=generator)[:k]] = 1 + torch.rand(
            k, generator=generator, dtype=torch.float64
        ).to(dtype)
    x = codes @ dictionary
    return x + 0.05 * torch.randn(x.shape, generator=generator, dtype=dtype), dictionary, codes


def slow(x, dictionary, steps, nonnegative):
    """Gradient pursuit of one row, number by number."""
    width, latents = len(x), len(dictionary)
    unit = [[float(v) / float(row.norm()) for v in row] for row in dictionary]
    support, code, residual = [], [0.0] * latents, [float(v) for v in x]
    for _ in range(steps):
        g = [sum(residual[j] * unit[i][j] for j in range(width)) for i in range(latents)]
        chosen = max(range(latents), key=lambda i: g[i] if nonnegative else abs(g[i]))
        if chosen not in support and (g[chosen] > 0 or not nonnegative):
            support.append(chosen)
        d = {i: g[i] for i in support if not nonnegative or code[i] > 0 or g[i] > 0}
        towards = [sum(d[i] * unit[i][j] for i in d) for j in range(width)]
        norm = sum(v * v for v in towards)
        a = sum(r * v for r, v in zip(residual, towards, strict=True)) / norm if norm else 0.0
        for i in d:
            code[i] = max(code[i] + a * d[i], 0.0) if nonnegative else code[i] + a * d[i]
        residual = [float(x[j]) - sum(code[i] * unit[i][j] for i in support) for j in range(width)]
    return torch.tensor([c / float(row.norm()) for c, row in zip(code, dictionary, strict=True)], dtype=torch.float64)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_is_the_slow_reference(nonnegative, norm):
    x, dictionary, _ = problem(rows=12, norm=norm)
    if not nonnegative:
        x = x - x.mean(0)
    counts = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 12, 1])
    found = gradient_pursuit(x, dictionary, counts, nonnegative=nonnegative)
    for row, code, count in zip(x, found, counts.tolist(), strict=True):
        expected = slow(row, dictionary, count, nonnegative)
        torch.testing.assert_close(code, expected, rtol=1e-9, atol=1e-9)
    assert (found < 0).any() != nonnegative


def test_a_cut_code_is_exercised_by_the_reference():
    # Without a row in which some code is cut at zero the rule for it would go untested.
    x, dictionary, _ = problem(rows=60, k=6, seed=4)
    free = gradient_pursuit(x, dictionary, torch.full((60,), 10), nonnegative=False)
    bound = gradient_pursuit(x, dictionary, torch.full((60,), 10))
    different = (free - bound).abs().amax(1) > 1e-6
    assert (free.min() < 0) and different.any()
    for row in different.nonzero().flatten()[:5].tolist():
        torch.testing.assert_close(bound[row], slow(x[row], dictionary, 10, True), rtol=1e-9, atol=1e-9)


def test_no_row_uses_more_latents_than_it_may():
    x, dictionary, _ = problem(rows=50)
    counts = torch.arange(50) % 9
    codes = gradient_pursuit(x, dictionary, counts)
    assert ((codes != 0).sum(1) <= counts).all()
    assert ((codes != 0).sum(1) == counts).float().mean() > 0.5
    assert (codes[counts == 0] == 0).all()


def test_the_first_step_is_the_best_single_latent():
    x, dictionary, _ = problem()
    codes = gradient_pursuit(x, dictionary, torch.ones(len(x), dtype=torch.int64))
    products = x @ dictionary.T
    assert torch.equal(codes.argmax(1), products.argmax(1))
    torch.testing.assert_close(codes.amax(1), products.amax(1))


def test_with_orthogonal_rows_it_ends_at_the_projection():
    generator = torch.Generator().manual_seed(1)
    dictionary = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64)).Q
    x = torch.randn(20, 16, generator=generator, dtype=torch.float64)
    codes = gradient_pursuit(x, dictionary, torch.full((20,), 5), nonnegative=False)
    products = x @ dictionary.T
    kept = products.abs() >= products.abs().topk(5, dim=1).values[:, -1:]
    torch.testing.assert_close(codes, torch.where(kept, products, 0.0))


def test_finds_planted_codes():
    x, dictionary, planted = problem(rows=200, latents=96, width=48, k=3)
    codes = gradient_pursuit(x, dictionary, torch.full((200,), 6))
    found = (codes > 0.5) == (planted > 0.5)
    assert found.all(1).float().mean() > 0.9
    residual = (x - codes @ dictionary).square().sum() / (x - x.mean(0)).square().sum()
    assert residual < 0.1


def test_more_steps_leave_less():
    x, dictionary, _ = problem(rows=100, k=8)
    left = [
        float((x - gradient_pursuit(x, dictionary, torch.full((100,), n)) @ dictionary).square().sum())
        for n in range(9)
    ]
    assert left[0] == float(x.square().sum())
    assert all(after < before for before, after in pairwise(left))


def test_float32_and_chunks_change_nothing_that_matters(monkeypatch):
    x, dictionary, _ = problem(rows=70)
    counts = torch.full((70,), 4)
    whole = gradient_pursuit(x, dictionary, counts)
    monkeypatch.setattr("saeuron.sae.pursuit._CHUNK", 16)
    torch.testing.assert_close(gradient_pursuit(x, dictionary, counts), whole)
    single = gradient_pursuit(x.float(), dictionary.float(), counts)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=1e-4, atol=1e-4)


def test_rows_and_latents_that_are_zero():
    x, dictionary, _ = problem(rows=4)
    x[0], dictionary[7] = 0, 0
    codes = gradient_pursuit(x, dictionary, torch.full((4,), 5))
    assert torch.isfinite(codes).all() and (codes[0] == 0).all() and (codes[:, 7] == 0).all()
    assert gradient_pursuit(x[:0], dictionary, torch.zeros(0, dtype=torch.int64)).shape == (0, 48)
