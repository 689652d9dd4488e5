"""What the benchmarks of explanations, of steering and of module sets count, beside the same by hand."""

import itertools

import numpy as np
import pytest
import torch

from benchmarks.inspection import explaining, module_sets, steering
from saeuron.inspection.ranks import spearman
from saeuron.sae.diagnosis.explanations import Rule


def test_breadth_is_the_number_of_values_that_a_latent_fires_on_often_enough() -> None:
    labels = [{"style": s, "object": o} for s in ("neon", "dots") for o in ("cat", "moon") for _ in range(5)]
    # 32 latents in groups of 2, 2, 4, 8 and 16: earlier ones fire on more values.
    fires = torch.zeros(20, 32, dtype=torch.bool)
    fires[:, :2] = True
    fires[:10, 2:4] = True
    fires[:5, 4:8] = True
    fires[0, 8:16] = True
    [figure] = explaining._breadth("trained", fires, labels)
    wide = [4] * 2 + [3] * 2 + [2] * 4 + [0] * 8
    group = [0] * 2 + [1] * 2 + [2] * 4 + [3] * 8
    assert figure.value == pytest.approx(spearman(group, wide)) and "n 16" in figure.name
    assert "means 4.0, 3.0, 2.0, 0.0, -" in figure.name


def test_a_confidence_is_honest_where_its_rule_holds_again() -> None:
    labels = [{"style": "neon" if i < 20 else "dots"} for i in range(40)]
    rule = Rule("one", (("style", "neon"),))
    strength = torch.zeros(40, 3)
    strength[:20, 0], strength[10:30, 1], strength[:, 2] = 1, 1, 1
    found = [explaining.Explained(i, rule, 0.5, 0.9, c) for i, c in ((0, 0.9), (1, 0.85), (2, 0.2))]
    again, detected = explaining._honest("trained", found, strength, labels)
    assert again.value == 0.5 and "n 2" in again.name and "n 2" in detected.name
    assert detected.value is not None and 0.5 < detected.value < 1
    [nothing] = explaining._honest("trained", found[2:], strength, labels)
    assert nothing.value is None


def test_positions_are_inside_where_more_than_half_of_them_is_covered() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[:, :, :8, :5] = 1
    found = explaining._pooled(mask, 16).reshape(4, 4)
    assert found[0, 0] and found.sum() == 1


def test_latents_are_taken_evenly_and_an_sae_with_fewer_gives_all() -> None:
    assert steering.spread(list(range(9)), 3) == [0, 4, 8] and steering.spread([1, 2], 5) == [1, 2]


def test_success_against_confidence() -> None:
    rows = [
        {"kind": kind, "latent": i, "alpha": alpha, "confidence": c, "success": kind == "latent" and good,
         "on_target": on, "off_target": 0.0, "odd": None}
        for i, (c, good, on) in enumerate([(0.9, True, 1.0), (0.8, False, 0.2), (0.7, True, 0.6), (0.1, False, 0.0)])
        for alpha in (1.0, -1.0)
        for kind in steering.KINDS
    ]  # fmt: skip
    found = {f.name.split(" (")[0]: f.value for f in steering.figures(rows)}
    # Of the four pairs of one that succeeds and one that does not, three are in order.
    assert found["up: AUC of confidence for success"] == 0.75
    assert found["down: latent succeeds"] == 0.5 and found["either way: random succeeds"] == 0.0
    assert found["up: Spearman of confidence and on - off - odd"] == pytest.approx(0.8)


def test_sets_are_of_every_size_and_each_is_there_once() -> None:
    modules = [f"m{i}" for i in range(5)]
    found = module_sets.sets(modules, 3, 0)
    assert len({*found}) == len(found) and found[-1] == tuple(modules)
    sizes = [len(each) for each in found]
    assert sizes == [1] * 5 + [2] * 3 + [3] * 3 + [4] * 3 + [5]
    assert all(list(each) == sorted(each) for each in found)


def test_a_share_that_only_knows_the_size_is_no_better_than_its_control() -> None:
    modules = [f"m{i}" for i in range(5)]
    groups = [g for size in range(1, 6) for g in itertools.combinations(modules, size)]
    share = np.array([len(g) / 5 + 0.001 * i for i, g in enumerate(groups)])
    moved = np.array([float("m0" in g) for g in groups])
    whole, control, base = module_sets.said("x", share, moved, groups, 4, 0.25)
    assert whole.value is not None and control.value is not None and base.value == 0.25
    assert control.value < module_sets.said("x", moved + share / 100, moved, groups, 4, 0.0)[0].value
