"""Profiles: the statistics that a removal of a concept needs (2501.18052, section 4).

    s(i,t,c)   the score, see `scoring.py`
    m(i,t)     the unweighted mean of mu(i,t,c) over all concepts of the domain, c included

Both follow from the concept's own sums and two sums over its domain. These are integers: a concept can be added to them
or subtracted, at a cost that does not depend on the number of others, and the bits are the same in any order.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.scoring import FIXED_POINT, means, share

MEAN_UNIT = 1 << 36
"""Sums of means are integers in units of 2^-36."""


class Counted(Protocol):
    """The statistics needed of one concept; `scoring.Totals` provides them."""

    @property
    def timesteps(self) -> NDArray[np.int32]:
        """[T], the scheduler's timesteps."""

    @property
    def sum_fixed(self) -> NDArray[np.int64]:
        """[T, N], units of 2^-24."""

    @property
    def n_rows(self) -> NDArray[np.uint64]:
        """[T], rows seen."""


class DomainTotals(NamedTuple):
    """Sums over the concepts of a domain. The arrays must not be written to."""

    timesteps: NDArray[np.int32]
    """[T], in the order of the statistics."""
    sum_fixed: NDArray[np.int64]
    """[T, N], units of 2^-24."""
    mean_fixed: NDArray[np.int64]
    """[T, N], the sum of the concepts' means, each rounded to 2^-36."""
    n_rows: NDArray[np.uint64]
    """[T], rows of all concepts."""
    concepts: int

    @classmethod
    def of(cls, members: Iterable[Counted]) -> "DomainTotals":
        """Totals of these concepts. They are read one by one, because there may be many.

        Raises:
            ValueError: there are none, or they were gathered at different steps.
            OverflowError: a sum does not fit int64.
        """
        total: DomainTotals | None = None
        for member in members:
            total = total.plus(member) if total else cls._alone(member)
        if total is None:
            raise ValueError("a domain without concepts has no totals")
        return total

    @classmethod
    def _alone(cls, member: Counted) -> "DomainTotals":
        return cls(member.timesteps, member.sum_fixed, _mean_fixed(member), member.n_rows, 1)

    def plus(self, member: Counted) -> "DomainTotals":
        """Totals with one more concept. Raises as `of`."""
        return self._with(member, 1)

    def minus(self, member: Counted) -> "DomainTotals":
        """Totals without one of its concepts. Raises as `of`."""
        return self._with(member, -1)

    def _with(self, member: Counted, sign: int) -> "DomainTotals":
        if not np.array_equal(member.timesteps, self.timesteps):
            raise ValueError("statistics of one domain were gathered at different steps; score its concepts alike")
        rows = self.n_rows + member.n_rows if sign > 0 else self.n_rows - member.n_rows
        sums = _add(self.sum_fixed, member.sum_fixed, sign)
        mean = _add(self.mean_fixed, _mean_fixed(member), sign)
        return DomainTotals(self.timesteps, sums, mean, rows, self.concepts + sign)


def _mean_fixed(member: Counted) -> NDArray[np.int64]:
    rows = np.maximum(member.n_rows, 1).astype(np.float64)[:, None]
    mean = member.sum_fixed / rows * (MEAN_UNIT / FIXED_POINT)
    if (np.abs(mean) >= 2.0**62).any():
        raise OverflowError(f"a latent has a mean of {np.abs(mean).max() / MEAN_UNIT:.3g}: expected less than 2^26")
    return np.rint(mean).astype(np.int64)


def _add(left: NDArray[np.int64], right: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
    total = left + right if sign > 0 else left - right
    # Integers overflow silently: then the total lies on the wrong side of the left term.
    if ((total < left) != (right * sign < 0)).any():
        raise OverflowError("the sums of a domain do not fit int64: score fewer images of each concept")
    return total


class Profile(NamedTuple):
    """Statistics that a removal of one concept needs."""

    timesteps: Tensor
    """int64 [T], in the order of the statistics."""
    mean: Tensor
    """mu(i,t,c), float32 [T, N]."""
    threshold: Tensor
    """m(i,t), float32 [T, N]."""
    score: Tensor
    """s(i,t,c), float64 [T, N]."""


def profile(own: Counted, domain: DomainTotals) -> Profile:
    """The profile of a concept; `domain` includes the concept.

    Raises:
        ValueError: they were gathered at different steps.
    """
    others = domain.minus(own)
    # Copies: arrays read from a file may be read-only, which torch warns about.
    mean = means(torch.tensor(own.sum_fixed), _rows(own.n_rows))
    other = means(torch.tensor(others.sum_fixed), _rows(others.n_rows))
    threshold = torch.tensor(domain.mean_fixed).double() / MEAN_UNIT / domain.concepts
    timesteps = torch.tensor(own.timesteps.astype(np.int64))
    return Profile(timesteps, mean.float(), threshold.float(), share(mean) - share(other))


def _rows(n_rows: NDArray[np.uint64]) -> Tensor:
    return torch.tensor(n_rows.astype(np.int64))
