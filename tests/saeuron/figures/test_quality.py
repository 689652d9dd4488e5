"""Frechet distances against the textbook formula, pairing of halves, counts of parts."""

import numpy as np
import pytest

from saeuron.figures.quality import counts, distance, frechet, halves, odd


def by_eigenvalues(a, b):
    """The formula as it stands, float64: the trace of a root is the sum of the roots of the eigenvalues."""
    s, t = np.cov(a.astype(np.float64), rowvar=False), np.cov(b.astype(np.float64), rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    gap = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    return gap @ gap + np.trace(s) + np.trace(t) - 2 * roots


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 5), (40, 60, 12), (8, 9, 30), (2, 3, 4)])
def test_the_distance_is_that_of_the_formula(n, m, width):
    generator = np.random.default_rng(n)
    a = generator.normal(size=(n, width)) @ generator.normal(size=(width, width))
    b = 0.3 + generator.normal(size=(m, width)) * 2
    # With fewer images than numbers the covariances are singular; roots of rounding errors are what the formula loses.
    assert frechet(a.astype(np.float32), b) == pytest.approx(by_eigenvalues(a, b), rel=1e-4, abs=1e-5)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 3) == pytest.approx(9 * width)


def test_one_dimension_by_hand():
    a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [5.0 + 8.0]])
    # Means 1 and 9, deviations sqrt(2) and 4 sqrt(2): 64 + 2 + 32 - 2 * 8.
    assert frechet(a, b) == pytest.approx(82)


def test_halves_hold_partners_and_as_many_images():
    keys = [("p", 0), ("p", 1), ("p", 2), ("q", 1), ("q", 0), ("r", 1)]
    assert halves(keys) == ([("p", 0), ("q", 0)], [("p", 1), ("q", 1)])


def test_value_and_control_have_the_same_number_of_images():
    generator = np.random.default_rng(0)
    keys = [(f"p{i}", index) for i in range(20) for index in range(3)]
    plain = {key: generator.normal(size=4) for key in keys}
    edited = {key: row + 5 for key, row in plain.items()}
    (found,) = distance(edited, plain, "x", "said")
    even, odd = (np.stack([plain[f"p{i}", index] for i in sorted(range(20), key=str)]) for index in (0, 1))
    assert (found.metric, found.extractor, found.n, found.image_set) == ("Frechet distance", "x", 20, "said")
    assert found.value == pytest.approx(100) and found.control == pytest.approx(frechet(even, odd))
    assert found.unedited is None and 0 < found.control < 5


def test_one_seed_has_no_control_and_one_image_no_distance():
    plain = {(f"p{i}", 0): np.array([float(i), 1.0]) for i in range(5)}
    (found,) = distance({key: row + 1 for key, row in plain.items()}, plain, "x", "said")
    assert (found.value, found.control, found.n) == (pytest.approx(2), None, 5)
    assert distance({("p", 0): np.zeros(2)}, {("p", 0): np.zeros(2)}, "x", "said") == []


def test_parts_are_counted_at_each_threshold_before_and_after():
    before = [("FEET", 0.5), ("FEET", 0.7), ("FACE", 0.9), ("FEET", 0.6)]
    found = {q.metric: (q.value, q.unedited) for q in counts([("FEET", 0.5)], before, (0.45, 0.6, 0.75), "j", 3, "all")}
    assert found == {
        "FACE at 0.45": (0, 1), "FACE at 0.6": (0, 1), "FACE at 0.75": (0, 1),
        "FEET at 0.45": (1, 3), "FEET at 0.6": (0, 2), "FEET at 0.75": (0, 0),
    }  # fmt: skip
    assert counts([], [], (0.5,), "j", 3, "all") == []


def test_odd_images_are_those_that_are_not_ordinary() -> None:
    (found,) = odd([True, False, False, True], [True, True, True, False], "judge", "asked to show cat")
    assert (found.value, found.unedited, found.n) == (0.5, 0.25, 4)
    assert odd([], [True], "judge", "none") == []
