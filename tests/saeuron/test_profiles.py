import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import storage.statistics.totals
from saeuron.profiles import MEAN_UNIT, DomainTotals, profile
from saeuron.scoring import FIXED_POINT, scores
from tests.saeuron.test_scoring import random_sums, slow_scores, totals_of


def members(concepts):
    sums, rows = random_sums(concepts)
    return sums, rows, [totals_of(s, r) for s, r in zip(sums, rows, strict=True)]


def as_bytes(totals):
    return [np.asarray(part).tobytes() for part in totals]


def test_the_unit_of_means_is_that_of_the_files():
    assert storage.statistics.totals.MEAN_UNIT == MEAN_UNIT


def test_a_profile_is_the_formula():
    sums, rows, domain = members(4)
    totals = DomainTotals.of(domain)
    mu = sums / FIXED_POINT / rows[..., None]
    for c in range(4):
        found = profile(domain[c], totals)
        assert found.timesteps.tolist() == [999, 499]
        np.testing.assert_allclose(found.mean.numpy(), mu[c], rtol=1e-6)
        np.testing.assert_allclose(found.score.numpy(), slow_scores(sums, rows)[c], rtol=0, atol=1e-12)
        # m: every concept counts once, the concept itself included, whatever its number of rows.
        np.testing.assert_allclose(found.threshold.numpy(), (mu[0] + mu[1] + mu[2] + mu[3]) / 4, rtol=1e-6)
        assert found.mean.dtype == found.threshold.dtype == torch.float32
    pooled = sums.sum(0) / FIXED_POINT / rows.sum(0)[:, None]
    assert not np.allclose(found.threshold.numpy(), pooled, rtol=1e-2)


def test_the_scores_of_a_profile_are_those_of_the_whole_domain():
    sums, rows, domain = members(3)
    whole = scores(torch.from_numpy(sums), torch.from_numpy(rows))
    totals = DomainTotals.of(domain)
    for c in range(3):
        assert torch.equal(profile(domain[c], totals).score, whole[c])


def test_a_domain_of_one_concept_has_no_others():
    _, _, (one,) = members(1)
    found = profile(one, DomainTotals.of([one]))
    assert torch.equal(found.score, found.score.abs())
    np.testing.assert_allclose(found.threshold.numpy(), found.mean.numpy(), rtol=1e-6)


def test_the_order_changes_no_bit():
    _, _, domain = members(4)
    first, *others = (as_bytes(DomainTotals.of(order)) for order in itertools.permutations(domain))
    assert all(other == first for other in others)


@given(st.lists(st.integers(0, 5), max_size=12))
def test_who_joined_and_left_changes_no_bit(moves):
    """Whatever the history, the totals are those of the concepts that are there."""
    _, _, domain = members(6)
    there, totals = {0}, DomainTotals.of(domain[:1])
    for move in moves:
        if move not in there:
            there.add(move)
            totals = totals.plus(domain[move])
        elif len(there) > 1:
            there.remove(move)
            totals = totals.minus(domain[move])
    assert as_bytes(totals) == as_bytes(DomainTotals.of([domain[i] for i in sorted(there)]))
    assert totals.concepts == len(there)


def test_statistics_of_different_steps_are_refused():
    sums, rows = random_sums(2)
    domain = [totals_of(sums[0], rows[0]), totals_of(sums[1], rows[1], timesteps=(999, 498))]
    with pytest.raises(ValueError, match="different steps"):
        DomainTotals.of(domain)
    with pytest.raises(ValueError, match="different steps"):
        profile(domain[1], DomainTotals.of(domain[:1]))
    with pytest.raises(ValueError, match="without concepts"):
        DomainTotals.of([])


def test_sums_that_do_not_fit_are_refused():
    sums, rows = random_sums(1)
    huge = totals_of(np.full_like(sums[0], 2**62), np.full_like(rows[0], 2**40))
    with pytest.raises(OverflowError, match="do not fit"):
        DomainTotals.of([huge, huge])
    with pytest.raises(OverflowError, match="a mean of"):
        DomainTotals.of([totals_of(np.full_like(sums[0], 2**62), np.ones_like(rows[0]))])
