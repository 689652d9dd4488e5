"""The error of an SAE, and how much of it is simple (2410.14670, "Decomposing the dark matter").

The error e = x - x_hat is predicted from x by least squares with an intercept, fitted on some rows and tested on
others. The predicted part is the linear error, the rest the nonlinear error. Gradient pursuit over the same decoder,
with as many latents per row as the encoder used, shows what a better encoder could recover.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from saeuron.sae.autoencoder import SAE
from saeuron.sae.moments import fvu
from saeuron.sae.pursuit import gradient_pursuit

_CHUNK = 4096


class Errors(NamedTuple):
    """Error of one way to find codes, over the test rows."""

    fvu: float
    """sum |e|^2 / sum |x - mean x|^2."""
    l0: float
    """Mean number of latents used per row."""
    linear: float | None
    """1 - sum |e - e_linear|^2 / sum |e|^2. None: too few rows to fit, or so few that the fit does not generalise."""
    norm: float | None
    """R^2 of |e|^2, predicted from x in the same way."""

    @property
    def fvu_linear(self) -> float | None:
        """Part of `fvu` that is linear in x; `fvu` minus this is the nonlinear part."""
        return None if self.linear is None else self.linear * self.fvu


class DarkMatter(NamedTuple):
    """Errors of the encoder and of gradient pursuit on the same rows."""

    encoder: Errors
    pursuit: Errors
    fit_rows: int
    test_rows: int


@torch.no_grad()
def dark_matter(sae: SAE, x: Tensor, fit: Tensor) -> DarkMatter:
    """Decompose the error of an SAE.

    Args:
        x: rows, [R, D]. fit: rows used for the least squares, bool [R]; they should come from other images than the
            rest, because rows of one image are alike.
    """
    parts = [(sae.encode(rows), rows) for rows in x.split(_CHUNK)]
    encoded = torch.cat([sae.decode(f) for f, _ in parts])
    counts = torch.cat([(f != 0).sum(1) for f, _ in parts])
    nonnegative = not any(bool((f < 0).any()) for f, _ in parts)
    pursued, used = [], []
    for rows, allowed in zip(x.split(_CHUNK), counts.split(_CHUNK), strict=True):
        f = gradient_pursuit(rows - sae.b_dec, sae.W_dec, allowed, nonnegative=nonnegative)
        pursued.append(sae.decode(f))
        used.append((f != 0).sum(1))
    return DarkMatter(
        errors(x, encoded, counts, fit), errors(x, torch.cat(pursued), torch.cat(used), fit), int(fit.sum()),
        int((~fit).sum()),
    )  # fmt: skip


def _known(share: float) -> float | None:
    """None below 0: that tells of the fit, not of the error."""
    return share if share >= 0 else None


def errors(x: Tensor, x_hat: Tensor, counts: Tensor, fit: Tensor) -> Errors:
    """Error of reconstructions x_hat [R, D] that use `counts` latents, [R]; see `dark_matter`."""
    e = x.double() - x_hat.double()
    squared = e.square().sum(1, keepdim=True)
    found = predict(x[fit], torch.cat([e, squared], dim=1)[fit], x[~fit])
    linear = norm = None
    if found is not None:
        left = (e[~fit] - found[:, :-1]).square().sum() / squared[~fit].sum().clamp(min=1e-30)
        target = squared[~fit, 0]
        spread = (target - target.mean()).square().sum().clamp(min=1e-30)
        linear = _known(1 - float(left))
        norm = _known(1 - float((target - found[:, -1]).square().sum() / spread))
    return Errors(fvu(x[~fit], x_hat[~fit]), float(counts[~fit].double().mean()), linear, norm)


def predict(x_fit: Tensor, y_fit: Tensor, x: Tensor) -> Tensor | None:
    """Least squares with an intercept: y [R', T] at x [R', D], fitted on x_fit [R, D] and y_fit [R, T]; float64.

    None if R <= D + 1: the fit would be exact and meaningless. Of equally good fits, the smallest is taken.
    """
    if len(x_fit) <= x_fit.shape[1] + 1:
        return None
    # On the CPU: only its solver accepts linearly dependent columns.
    x64, y64 = x_fit.double().cpu(), y_fit.double().cpu()
    centre, mean = x64.mean(0), y64.mean(0)
    slope = torch.linalg.lstsq(x64 - centre, y64 - mean, driver="gelsd").solution
    return ((x.double().cpu() - centre) @ slope + mean).to(y_fit.device)
