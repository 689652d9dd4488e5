"""Other selections for SAeUron's edit, beside loops over latents and steps."""

import math

import numpy as np
import torch

from benchmarks.removals.selections import FORMS, Statistics
from saeuron.profiles import DomainTotals, profile
from saeuron.scoring import FIXED_POINT
from storage.statistics.sums import Sums

CONCEPTS, T, N, ROWS, IMAGES = ("cat", "fish", "moon"), 4, 6, 50, 10


def statistics() -> Statistics:
    """Sums of three concepts at four steps, of six latents; the first fires in few images."""
    chance = np.random.default_rng(0)

    def sums() -> Sums:
        fires = chance.integers(5, IMAGES, (T, N), dtype=np.uint32)
        fires[:, 0] = 4
        values = chance.integers(1, 9, (T, N)) * FIXED_POINT
        return Sums(
            timesteps=np.array([100, 300, 500, 700], np.int32),
            fires=fires.astype(np.uint64),
            image_fires=fires,
            sum_fixed=values,
            sumsq_fixed=values,
            max=np.ones((T, N), np.float32),
            n_rows=np.full(T, ROWS, np.uint64),
            n_images=np.full(T, IMAGES, np.uint32),
        )

    of = {name: sums() for name in CONCEPTS}
    return Statistics(of, DomainTotals.of(of.values()))


def test_each_form_is_what_its_line_says() -> None:
    found = statistics()
    plain = profile(found.of["cat"], found.total)
    made = {name: form(plain, found, "cat") for name, form in FORMS.items()}
    mu = {c: s.sum_fixed / FIXED_POINT / ROWS for c, s in found.of.items()}
    share = {c: m / m.sum(1, keepdims=True) for c, m in mu.items()}
    for t in range(T):
        for i in range(N):
            own, others = mu["cat"][t, i], [mu[c][t, i] for c in ("fish", "moon")]
            pooled = sum(others) / 2  # as many rows each
            mean_score = sum(float(plain.score[s, i]) for s in range(T)) / T
            rival = max(share[c][t, i] for c in ("fish", "moon"))
            often = found.of["cat"].image_fires[t, i] >= IMAGES / 2
            assert made["published"].score[t, i] == plain.score[t, i]
            assert math.isclose(made["together"].score[t, i], mean_score, abs_tol=1e-12)
            assert math.isclose(made["nearest"].score[t, i], share["cat"][t, i] - rival, abs_tol=1e-6)
            wanted = own * math.log(own / pooled) if often else -math.inf
            assert math.isclose(made["ratio"].score[t, i], wanted, abs_tol=1e-6)
            assert math.isclose(made["relatives"].threshold[t, i], max(others), rel_tol=1e-6)
            near_noise = int(plain.timesteps[t]) in (500, 700)
            assert made["late"].threshold[t, i] == (math.inf if near_noise else plain.threshold[t, i])


def test_a_form_changes_nothing_else() -> None:
    found = statistics()
    plain = profile(found.of["cat"], found.total)
    for name, form in FORMS.items():
        changed = {
            field
            for field, a, b in zip(plain._fields, plain, form(plain, found, "cat"), strict=True)
            if not torch.equal(a, b)
        }
        assert changed <= ({"threshold"} if name in ("relatives", "late") else {"score"}), name
