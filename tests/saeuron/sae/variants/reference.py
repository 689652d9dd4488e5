"""What the slow references of variants that choose by size share: codes are {latent: p}, one for each row."""

import torch


def quiet(variant, less):
    """The variant with smaller biases, so that few p are positive, and two latents whose p is zero everywhere."""
    with torch.no_grad():
        variant.b_enc -= less
        variant.W_enc[[5, 40]] = 0
        variant.b_enc[[5, 40]] = 0
    return variant


def slow_decode(v, codes):
    return torch.stack([sum((f * v.W_dec[i] for i, f in code.items()), v.b_dec) for code in codes])


def agree(out, loss, variant, codes, x_hat, expected):
    """What came of a `quiet` variant is what the reference says: loss, x_hat, every gradient, who fired."""
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out.x_hat, x_hat, rtol=1e-10, atol=1e-12)
    found, wanted = gradients(loss, variant), gradients(expected, variant)
    assert found.keys() == {"W_enc", "b_enc", "W_dec", "b_dec"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.abs().sum() > 0
    # Latents that are chosen for want of positive ones, with a value of zero, learn nothing.
    for name in ("W_enc", "b_enc", "W_dec"):
        assert found[name][[5, 40]].abs().sum() == 0
    assert out.active == sum(len(code) for code in codes)
    assert set(out.fired.nonzero().flatten().tolist()) == set().union(*codes)


def gradients(loss, variant):
    """By name; what the loss does not depend on has none."""
    named = dict(variant.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), retain_graph=True), strict=True))
