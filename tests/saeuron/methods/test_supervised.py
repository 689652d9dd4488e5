"""The supervised edit finds the direction that labels tell, and takes it away where it is."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence
from saeuron.methods.removal import Removal
from saeuron.methods.supervised import Moments, discriminant

D, T = 6, (900, 100)


def rows(seed, shift=0.0, count=4000):
    """Rows whose first two numbers go together, so that the best reader is not the difference of means."""
    noise = np.random.default_rng(seed).normal(size=(count, D))
    noise[:, 1] = 0.9 * noise[:, 0] + 0.1 * noise[:, 1]
    noise[:, 0] += shift
    return torch.tensor(noise)


@pytest.fixture(scope="module")
def learned():
    target, others = Moments(), Moments()
    for t, shift in zip(T, (1.0, 3.0), strict=True):
        for part in rows(t, shift).chunk(7):
            target.add(t, part)
        others.add(t, rows(t + 1))
    return discriminant(target, others)


def edit(learned, strength=1.0):
    method, evidence = methods.get("supervised"), Evidence("c", "d", ("h",))
    [part] = method.parts(evidence, {"h": learned}, {"strength": strength})
    return part


def test_the_reader_is_fishers_discriminant(learned):
    assert learned.timesteps.tolist() == [900, 100]
    for i, (t, shift) in enumerate(zip(T, (1.0, 3.0), strict=True)):
        x, y = rows(t, shift).numpy(), rows(t + 1).numpy()
        within = (np.cov(x.T, bias=True) + np.cov(y.T, bias=True)) / 2
        within += 0.01 * np.trace(within) / D * np.eye(D)
        difference = x.mean(0) - y.mean(0)
        reader = np.linalg.inv(within) @ difference
        np.testing.assert_allclose(learned.reader[i], reader / (reader @ difference), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(learned.difference[i], difference, rtol=1e-5, atol=1e-6)
        # It weighs the second number, in which the means do not differ, because that tells the noise of the first.
        assert abs(difference[1]) < 0.1 and abs(learned.reader[i, 1]) > 0.3 * abs(learned.reader[i, 0])


def test_rows_of_the_concept_come_to_the_others_mean_and_others_stay(learned):
    part = edit(learned)
    x, y = rows(7, 3.0).float(), rows(8).float()
    changed, kept = part.delta(x, 100), part.delta(y, 100)
    a = (x - learned.centre[1]) @ learned.reader[1]
    above = a > 0.5
    assert above.float().mean() > 0.99 and (kept != 0).any(1).float().mean() < 0.01
    torch.testing.assert_close(changed, torch.where(above, -a, 0.0)[:, None] * learned.difference[1])
    assert abs(float((x + changed).mean(0)[0])) < 0.1
    assert (part.delta(y[~(kept != 0).any(1)], 100) == 0).all()


def test_strength_scales_the_edit_and_it_is_saved(learned, tmp_path):
    x = rows(7, 3.0, 50).float()
    torch.testing.assert_close(edit(learned, 2.0).delta(x, 100), 2 * edit(learned).delta(x, 100))
    torch.testing.assert_close(edit(learned, 2.0).scaled(0.5).delta(x, 100), edit(learned).delta(x, 100))
    removal = Removal("c", "d", "supervised", {"strength": 2.0}, (edit(learned, 2.0),))
    removal.save(tmp_path / "r.safetensors")
    [again] = Removal.load(tmp_path / "r.safetensors").edits
    assert torch.equal(again.delta(x, 120), edit(learned, 2.0).delta(x, 120))


def test_strengths_are_positive_and_go_from_mild_to_strong():
    assert methods.get("supervised").candidates({"strength": (4, 1)}) == [{"strength": 1.0}, {"strength": 4.0}]
    with pytest.raises(ConfigError, match="strength holds 0; expected numbers above 0"):
        methods.get("supervised").candidates({"strength": (0,)})
