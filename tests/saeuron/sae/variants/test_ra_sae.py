import pytest
import torch

from saeuron.sae.config import RASAEOptions, SAEConfig
from saeuron.sae.training import Trainer, quality
from tests.saeuron.sae.variants.resuming import normal, resumed, rows

OPTIONS = RASAEOptions(candidates=20, delta=0.2, speed=5)
SMALL = SAEConfig(variant="ra_sae", expansion=6, k=2, batch=64, steps=30, lr=1e-2, dead_rows=128, ra_sae=OPTIONS)
PLANTED = SAEConfig(variant="ra_sae", expansion=2, k=3, batch=256, steps=600, lr=1e-2, dead_rows=5000)


def small(**options):
    return SMALL.model_copy(update={"ra_sae": OPTIONS.model_copy(update=options)})


def by_hand(v, x, dead):
    """Loss and AuxK from the formula of the decoder, row by row of W, and dense latents; gradients by autograd."""
    B, N = len(x), v.n_latents
    atoms = []
    for i in range(N):
        weights = [(5 * logit).exp() for logit in v.logits[i]]
        mix = sum(w / sum(weights) * c for w, c in zip(weights, v.candidates, strict=True))
        atoms.append(v.scale.exp() * (mix + v.relaxation[i]))
    W_dec = torch.stack(atoms)
    p = (x - v.b_dec) @ v.W_enc.T + v.b_enc
    threshold = sorted(p.flatten().tolist())[-v.config.k * B]
    f = torch.where((p >= threshold) & (p > 0), p, 0)
    x_hat, variance = f @ W_dec + v.b_dec, ((x - x.mean(0)) ** 2).sum()
    aux = 0.0
    for b in range(B):
        best = sorted((i for i in range(N) if dead[i]), key=lambda i: -p[b, i].item())[: x.shape[1] // 2]
        e_hat = sum((torch.relu(p[b, i]) * W_dec[i] for i in best), torch.zeros_like(x[b]))
        aux = aux + (((x[b] - x_hat[b]).detach() - e_hat) ** 2).sum() / variance
    return ((x - x_hat) ** 2).sum() / variance, aux, f, W_dec


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path):
    variant = random_variant(SMALL, path=path)
    x = normal(20, 8) + 0.5
    dead = torch.arange(48) % 8 == 0
    out = variant(x, 0)
    loss, aux, f, W_dec = by_hand(variant, x, dead)
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(variant.decoder(), W_dec, rtol=1e-10, atol=1e-12)
    assert out.active == int((f > 0).sum())
    names = [n for n, _ in variant.named_parameters()]
    assert set(names) == {"W_enc", "b_enc", "b_dec", "logits", "relaxation", "scale"}
    found = torch.autograd.grad(out.loss + variant.auxiliary(x, out.x_hat, dead), list(variant.parameters()))
    expected = torch.autograd.grad(loss + aux, list(variant.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        assert a.abs().sum() > 0


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.2])
def test_atoms_stay_within_delta_of_the_convex_hull_of_the_data(delta):
    trainer = Trainer(small(delta=delta), 8, "")
    data = rows()
    trainer.initialise(data[0])
    start = trainer.sae.W_dec.clone()
    for batch in data:
        trainer.step(batch)
    variant = trainer.variant
    W_dec = trainer.sae.W_dec / variant.scale.detach().exp()
    assert (W_dec - start).norm(dim=1).mean() > 0.1
    # W is on the simplex, and Lambda no longer than allowed, though it would like to be.
    W = variant.mixing().detach()
    assert (W >= 0).all()
    torch.testing.assert_close(W.sum(1), torch.ones(48), rtol=0, atol=1e-5)
    longest = float((W_dec - W @ variant.candidates).norm(dim=1).max())
    assert longest == pytest.approx(delta, abs=1e-5)
    # And without looking at W: in no direction does an atom lie further out than the furthest candidate and delta.
    directions = torch.nn.functional.normalize(normal(2000, 8).float())
    beyond = (W_dec @ directions.T).amax(0) - (variant.candidates @ directions.T).amax(0)
    assert float(beyond.max()) <= delta + 1e-5
    # The scale takes no part in that, and may be learned.
    assert variant.scale.abs() > 1e-3


def test_candidates_are_rows_of_the_first_sample_and_latents_start_at_them():
    trainer = Trainer(SMALL, 8, "")
    sample = rows(1)[0].float() * 50 + 3
    trainer.initialise(sample)
    variant = trainer.variant
    centred = sample - variant.b_dec.detach()
    of_unit = centred / variant.candidates.norm(dim=1).mean()
    assert float(variant.candidates.norm(dim=1).mean()) == pytest.approx(1, rel=1e-5)
    cosines = torch.nn.functional.normalize(variant.candidates) @ torch.nn.functional.normalize(of_unit).T
    torch.testing.assert_close(cosines.amax(1), torch.ones(20))
    assert cosines.argmax(1).unique().numel() == 20
    atoms = trainer.sae.W_dec.detach()
    # The first twenty at one candidate each; of the others, no two alike.
    assert (torch.cdist(atoms[:20], variant.candidates).argmin(1) == torch.arange(20)).all()
    assert float((torch.cdist(atoms, atoms) + torch.eye(48)).min()) > 1e-3
    torch.testing.assert_close(variant.W_enc.detach(), torch.nn.functional.normalize(atoms))
    # A sample of fewer rows than candidates is used again.
    short = Trainer(small(candidates=50), 8, "")
    short.initialise(sample[:30])
    assert short.variant.candidates.unique(dim=0).shape == (30, 8)


def test_there_are_no_more_candidates_than_rows_in_a_batch():
    assert Trainer(small(candidates=1000), 8, "").variant.candidates.shape == (64, 8)


def test_the_export_holds_the_decoder_as_computed(random_variant):
    variant = random_variant(SMALL)
    assert not hasattr(variant, "W_dec")
    assert torch.equal(variant.export().W_dec, variant.decoder().detach().float())
    assert variant.decoder().norm(dim=1).std() > 0.05


def test_planted_directions_are_recovered_with_k_active_at_inference(recovered):
    sae, cosine, held_out = recovered(PLANTED)
    assert cosine > 0.9
    assert sae.info.activation == "threshold"
    figures = quality(sae, iter(held_out.split(512)))
    assert figures.l0 == pytest.approx(3, rel=0.1)
    assert figures.fvu < 0.17
    torch.testing.assert_close(sae.encode(held_out[:7]), sae.encode(held_out)[:7], rtol=1e-4, atol=1e-4)


def test_thirty_steps_are_thirteen_and_seventeen_more(tmp_path):
    whole, _ = resumed(SMALL, tmp_path)
    assert whole.history[-1].dead > 0
