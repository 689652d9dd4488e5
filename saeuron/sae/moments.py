"""FVU and L0 from sums that can be added: parts of a set and the whole set are measured in the same way."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums over rows x, [D], their codes f and reconstructions x_hat; float64."""

    rows: int
    total: Tensor
    """sum x, [D]."""
    squares: float
    """sum |x|^2."""
    error: float
    """sum |x - x_hat|^2."""
    active: int
    """Number of f != 0."""

    @classmethod
    def of(cls, x: Tensor, f: Tensor, x_hat: Tensor) -> Self:
        """The sums over a batch: x and x_hat [..., D], f [..., N]."""
        x64 = x.double().flatten(0, -2)
        error = (x64 - x_hat.double().flatten(0, -2)).square().sum()
        return cls(len(x64), x64.sum(0).cpu(), float(x64.square().sum()), float(error), int((f != 0).sum()))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.rows + other.rows,
            self.total + other.total,
            self.squares + other.squares,
            self.error + other.error,
            self.active + other.active,
        )

    @property
    def variance(self) -> float:
        """|x - mean x|^2, summed over the rows of these sums."""
        return self.squares - float(self.total.square().sum()) / self.rows

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean x|^2, with the mean of these rows."""
        return self.error / max(self.variance, 1e-12)

    @property
    def relative(self) -> float:
        """sum |x - x_hat|^2 / sum |x|^2: for rows that hardly differ, where the variance is close to zero."""
        return self.error / max(self.squares, 1e-12)

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a row."""
        return self.active / self.rows


def pooled(parts: list[Moments]) -> Moments:
    """The sum of all parts; at least one is needed."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def fvu(x: Tensor, x_hat: Tensor) -> float:
    """FVU of rows [B, D], in float64."""
    x64 = x.double()
    variance = (x64 - x64.mean(0)).square().sum().clamp(min=1e-12)
    return float((x64 - x_hat.double()).square().sum() / variance)
