"""Energies, nearest pictures and copies, beside loops; planted copies are told from the rest."""

import numpy as np
import pytest
import torch

from saeuron.blindspots.dictionary import DictionaryConfig, learn, strengths
from saeuron.blindspots.features import features
from saeuron.blindspots.pairs import copied_below, energies, nearest, shifts
from saeuron.blindspots.real import Rendered
from saeuron.canvas.vocabularies import CANVAS20
from saeuron.inspection.ranks import auc
from saeuron.prompts import Prompt


def test_nearest_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((300, 6)), rng.random((40, 6))
    found = nearest([a], b)
    for i in range(len(a)):
        every = [float(((a[i] - row) ** 2).sum()) for row in b]
        assert found.place[i] == int(np.argmin(every)) and found.energy[i] == pytest.approx(min(every))
    own = nearest([b], b, other=True)
    for i in range(len(b)):
        every = [float(((b[i] - b[j]) ** 2).sum()) if j != i else np.inf for j in range(len(b))]
        assert own.place[i] == int(np.argmin(every))
    assert energies([a[:40]], b)[3] == pytest.approx(((a[3] - b[3]) ** 2).sum())
    with pytest.raises(ValueError, match="1 pictures to be near to"):
        nearest([b], b[:1], other=True)


def test_the_limit_is_a_quantile_of_other_real_pictures() -> None:
    rng = np.random.default_rng(2)
    real, made, fresh = (rng.random((50, 6)) for _ in range(3))
    each = [min(((row - other) ** 2).sum() for other in real) for row in fresh]
    assert copied_below(real, [made], [fresh]) == pytest.approx(np.quantile(each, 0.01))


def test_without_others_a_copy_is_nearer_than_real_ones_and_far_from_the_rest() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.random((50, 6)), rng.random((60, 6))
    real[49] = real[48]
    near = [min(((real[i] - real[j]) ** 2).sum() for j in range(50) if j != i) for i in range(48)]
    logs = np.log([min(((row - other) ** 2).sum() for other in real) for row in made])
    first, third = np.quantile(logs, (0.25, 0.75))
    fence = np.exp(first - 3 * (third - first))
    assert copied_below(real, [made]) == pytest.approx(min(np.quantile(near, 0.01), fence))
    assert copied_below(real, [np.concatenate([made, made[:40] + 3])]) <= np.quantile(near, 0.01)
    assert copied_below(real[:1], [made]) == 0 and copied_below(real[48:], [made]) == 0


def test_planted_copies_have_almost_no_energy() -> None:
    prompts = [Prompt(f"A {o}.", "test", {"object": o, "style": s}) for o in CANVAS20.objects for s in CANVAS20.styles]
    real = np.stack([p.pixels for p in Rendered(CANVAS20).draw(prompts, 1)])
    made = np.stack([p.pixels for p in Rendered(CANVAS20).draw(prompts, 2)])
    rng = np.random.default_rng(3)
    planted = np.zeros(len(made), dtype=bool)
    planted[rng.permutation(len(made))[:12]] = True
    noisy = np.roll(real[planted], 1, axis=2) + rng.normal(scale=0.02 * 127.5, size=real[planted].shape)
    made[planted] = noisy.round().clip(0, 255).astype(np.uint8)
    seeing = features("canvas20")
    rows, others = seeing.rows(real), seeing.rows(made)
    sae = learn(torch.cat([rows, others]).flatten(0, 1), DictionaryConfig(steps=150))
    a, b = strengths(sae, rows).mean, [strengths(sae, seeing.rows(moved)).mean for moved in shifts(made)]
    own, shuffled = energies(b, a), energies(b, a[rng.permutation(len(a))])
    found, chance = auc(-own, planted), auc(-shuffled, planted)
    assert found is not None and found >= 0.95
    assert chance is not None and abs(chance - 0.5) < 0.2


def test_the_nearest_of_all_shifts() -> None:
    rng = np.random.default_rng(4)
    moves, b = [rng.random((9, 5)) for _ in range(3)], rng.random((7, 5))
    found = nearest(moves, b)
    for i in range(9):
        every = {(k, j): float(((moves[k][i] - b[j]) ** 2).sum()) for k in range(3) for j in range(7)}
        _, place = min(every, key=lambda at: every[at])
        assert found.place[i] == place and found.energy[i] == pytest.approx(min(every.values()))
    own = energies([m[:7] for m in moves], b)
    assert own[2] == pytest.approx(min(((m[2] - b[2]) ** 2).sum() for m in moves))


def test_shifts_move_pictures_by_a_pixel() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    same, left, right, up, down = (p[0] for p in shifts(picture))
    assert np.array_equal(same, picture[0])
    assert np.array_equal(left[:, :-1], picture[0, :, 1:]) and np.array_equal(left[:, -1], picture[0, :, -1])
    assert np.array_equal(right[:, 1:], picture[0, :, :-1]) and np.array_equal(right[:, 0], picture[0, :, 0])
    assert np.array_equal(up[:-1], picture[0, 1:]) and np.array_equal(down[1:], picture[0, :-1])
