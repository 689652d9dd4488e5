"""The mean over concepts: the wider of two intervals."""

import numpy as np
import pytest

from saeuron.figures.metrics import wilson
from saeuron.figures.spread import over_concepts


def test_equal_concepts_have_the_interval_of_their_images() -> None:
    assert over_concepts([(1.0, 12)] * 5) == (1.0, *wilson(60, 60))


def test_concepts_that_differ_have_that_of_a_bootstrap_over_them() -> None:
    values = [0.0, 1.0, 1.0, 0.5, 1.0, 0.2]
    mean, low, high = over_concepts([(v, 1000) for v in values])
    slow = sorted(np.mean(np.random.default_rng(s).choice(values, len(values))) for s in range(3000))
    assert mean == pytest.approx(np.mean(values))
    assert low == pytest.approx(slow[75], abs=0.06) and high == pytest.approx(slow[2925], abs=0.06)
    assert low < wilson(round(mean * 6000), 6000)[0]


def test_no_concept_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        over_concepts([])
