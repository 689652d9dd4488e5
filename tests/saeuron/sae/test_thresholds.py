"""Thresholds by which latents fire as often as with per-row TopK, against loops over rows and latents."""

import pytest
import torch

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.thresholds import agreement, with_thresholds

N, WIDTH, K = 24, 8, 3


def make(seed: int = 0) -> SAE:
    sae = SAE(SAEInfo("topk", WIDTH, N, K, "unet.mid_block", "topk"), seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.b_enc.copy_(0.3 * torch.randn(N, generator=draws))
        sae.b_dec.copy_(torch.randn(WIDTH, generator=draws))
        sae.b_enc[5] = -50.0  # never among the largest
        sae.b_enc[6] = 50.0  # always
    return sae.requires_grad_(False)


def draw(count: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def slow(sae: SAE, rows: torch.Tensor) -> tuple[list[int], list[float], list[list[float]]]:
    """(firings of each latent, least p that each row keeps, p by row) in float64, one number after another."""
    fires, least, table = [0] * N, [], []
    W, b, mid = sae.W_enc.double(), sae.b_enc.double(), sae.b_dec.double()
    for x in rows.double():
        p = [float(((x - mid) * W[i]).sum() + b[i]) for i in range(N)]
        chosen = sorted(range(N), key=lambda i, p=p: -p[i])[:K]  # type: ignore[misc]
        for i in chosen:
            fires[i] += p[i] > 0
        least.append(max(min(p[i] for i in chosen), 0.0))
        table.append(p)
    return fires, least, table


def test_each_latent_fires_as_often_as_with_topk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several blocks of rows and of latents, the last ones shorter.
    monkeypatch.setattr("saeuron.sae.thresholds._ROWS", 50)
    monkeypatch.setattr("saeuron.sae.thresholds._LATENTS", 7)
    sae, rows = make(), draw(333, 1)
    fires, least, table = slow(sae, rows)
    found = with_thresholds(sae, rows)
    assert found.info.activation == "threshold" and found.info.k == K and found.info.hookpoint == sae.info.hookpoint
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(sae, name))
    assert (found.encode(rows) > 0).sum(0).tolist() == fires
    assert fires[5] == 0 and fires[6] == len(rows) and 10 < fires[0] < 200
    for i in range(N):
        falling = sorted((p[i] for p in table), reverse=True)
        if fires[i] == 0:
            expected = max(falling[0], sum(least) / len(least))
        else:
            following = max(falling[fires[i]], 0.0) if fires[i] < len(rows) else 0.0
            expected = (falling[fires[i] - 1] + following) / 2
        assert float(found.threshold[i]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_nothing_is_shared_with_the_sae() -> None:
    sae = make()
    found = with_thresholds(sae, draw(20, 2))
    before = found.W_enc.clone()
    sae.W_enc.zero_()
    assert torch.equal(found.W_enc, before) and sae.info.activation == "topk"


def test_agreement_counts_firings_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeuron.sae.thresholds._ROWS", 50)
    sae, rows = make(), draw(170, 3)
    found = with_thresholds(sae, draw(600, 1))
    told = agreement(sae, found, rows)
    f, g = sae.encode(rows), found.encode(rows)
    both = before = after = 0
    for a, b in zip(f.flatten().tolist(), g.flatten().tolist(), strict=True):
        before, after, both = before + (a > 0), after + (b > 0), both + (a > 0 and b > 0)
    assert (told.kept, told.shared) == (both / before, both / after)
    assert (told.l0_topk, told.l0) == (before / len(rows), after / len(rows))
    spread = float((rows.double() - rows.double().mean(0)).square().sum())
    for fvu, made in ((told.fvu_topk, sae.decode(f)), (told.fvu, found.decode(g))):
        assert fvu == pytest.approx(float((rows - made).double().square().sum()) / spread, rel=1e-6)
    assert told.never == pytest.approx(sum(float(g[:, i].max()) == 0 for i in range(N)) / N)
    # Other rows than those of the thresholds: alike, and not the same.
    assert 0.5 < told.kept < 1 and told.l0 == pytest.approx(told.l0_topk, rel=0.2)
    # Thresholds of another SAE agree less: the figure can be low.
    strange = with_thresholds(make(9), draw(600, 1))
    assert agreement(sae, strange, rows).kept < told.kept - 0.2
