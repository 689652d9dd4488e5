"""Lengths of activations against a loop over rows, and against random directions."""

import pytest
import torch

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.diagnosis.norms import Norms, grouped


def made(width: int, latents: int, k: int, seed: int = 0) -> SAE:
    return SAE(SAEInfo("topk", width, latents, k, activation="topk"), seed=seed).requires_grad_(False)


def test_means_are_those_of_a_loop_over_rows_in_any_batches() -> None:
    sae, chance = made(6, 9, 4), torch.Generator().manual_seed(1)
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(9, 1, generator=chance) + 0.5)  # as of a variant without unit rows
        sae.b_dec.copy_(torch.randn(6, generator=chance))
        sae.b_enc.copy_(0.5 * torch.randn(9, generator=chance))
    x = torch.randn(40, 6, generator=chance)
    f = sae.encode(x)
    f[:9] = f[:9] * (f[:9] > 1)
    norms = Norms(sae)
    for part in (slice(7), slice(7, 40)):
        norms.add(x[part][None], f[part][None], sae.decode(f[part])[None])
    by_hand: dict[int, list[tuple[float, ...]]] = {}
    for row, codes in zip(x, f, strict=True):
        g = [float(codes[i] * sae.W_dec[i].norm()) for i in range(9)]
        length = sum(v * v for v in g)
        spread = (2 * (1 - sum(v**4 for v in g) / max(length**2, 1e-30)) / 6) ** 0.5 if length else 0.0
        rebuilt = float((sae.decode(codes) - sae.b_dec).norm())
        of = (float((row - sae.b_dec).norm()), length**0.5, rebuilt, spread / 2)
        by_hand.setdefault(sum(v != 0 for v in g), []).append(of)
    found = norms.by_latents()
    assert [n.latents for n in found] == sorted(by_hand) and len(found) > 2
    for norm in found:
        rows = by_hand[norm.latents]
        assert norm.rows == len(rows)
        if norm.latents:
            assert norm[2:] == pytest.approx([sum(column) / len(rows) for column in zip(*rows, strict=True)], rel=1e-4)


def test_random_directions_lie_within_the_spread_that_is_said() -> None:
    """The control: |f| / |x_hat - b_dec| of random directions has the spread that stands beside it."""
    sae, chance = made(64, 4000, 8), torch.Generator().manual_seed(2)
    f = torch.zeros(3000, 4000)
    for row in f:
        row[torch.randperm(4000, generator=chance)[:8]] = torch.rand(8, generator=chance) + 0.1
    x_hat = sae.decode(f)
    norms = Norms(sae)
    norms.add(x_hat, f, x_hat)
    [norm] = norms.by_latents()
    ratio = f.norm(dim=1) / x_hat.norm(dim=1)
    assert norm.latents == 8 and float(ratio.std()) == pytest.approx(norm.spread, rel=0.15)
    assert norm.found == pytest.approx(norm.rebuilt, rel=0.01)


def test_groups_hold_every_row_once() -> None:
    sae = made(6, 9, 9)
    norms = Norms(sae)
    f = torch.zeros(45, 9)
    for i in range(45):
        f[i, : i % 9 + 1] = 1.0
    norms.add(torch.zeros(45, 6), f, sae.decode(f))
    all_ = grouped(norms.by_latents())
    assert [label for label, _ in all_] == [str(m) for m in range(1, 10)]
    few = grouped(norms.by_latents(), most=3)
    assert [label for label, _ in few] == ["1 to 3", "4 to 6", "7 to 9"] and sum(n.rows for _, n in few) == 45
    assert few[0][1].found == pytest.approx((1 + 2**0.5 + 3**0.5) / 3)
