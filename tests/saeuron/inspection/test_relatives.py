"""Similarity of concepts, the tree, and their controls, by slow formulas; what is planted is found."""

import itertools

import numpy as np
import pytest

from saeuron.canvas.overlaps import most_alike, overlaps
from saeuron.canvas.shapes import EXTENT, RESOLUTION, templates
from saeuron.inspection.ranks import spearman
from saeuron.inspection.relatives import drawn, mantel, nearest, on_nearest, similarity, tree


def planted(groups: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Means of two steps and SAEs, in which the concepts of a group share latents; [C, N] each."""
    chance = np.random.default_rng(seed)
    found = []
    for width in (9, 14):
        common = chance.random((len(groups), width)) * 2
        member = np.repeat(np.arange(len(groups)), groups)
        found.append(common[member] + 0.2 * chance.random((sum(groups), width)))
    return found


def slow(blocks: list[np.ndarray]) -> np.ndarray:
    """The formula as it stands, number by number."""
    count = len(blocks[0])
    r = [[m / (sum(block[c]) + 1e-8) for block in blocks for m in block[c]] for c in range(count)]
    mean = [sum(r[c][i] for c in range(count)) / count for i in range(len(r[0]))]
    rest = [[v - m for v, m in zip(row, mean, strict=True)] for row in r]
    length = [sum(v * v for v in row) ** 0.5 for row in rest]
    return np.array(
        [[sum(x * y for x, y in zip(rest[a], rest[b], strict=True)) / (length[a] * length[b]) for b in range(count)]
         for a in range(count)]
    )  # fmt: skip


def test_similarity_is_the_cosine_less_the_mean_in_any_order_of_steps() -> None:
    blocks = planted((3, 2, 2))
    found = similarity(blocks)
    assert found == pytest.approx(slow(blocks), abs=1e-12)
    assert similarity(reversed(blocks)) == pytest.approx(found, abs=1e-12)
    # The scale of a step does not count.
    assert similarity([100 * blocks[0], blocks[1]]) == pytest.approx(found, abs=1e-6)
    assert (np.diagonal(found) == 1).all()


def test_a_concept_on_which_nothing_fires_has_numbers_and_equal_ones_are_not_divided_by_zero() -> None:
    blocks = planted((2, 2))
    blocks[0][1], blocks[1][1] = 0, 0
    assert np.isfinite(similarity(blocks)).all()
    same = similarity([np.ones((3, 4))])
    assert same.tolist() == np.eye(3).tolist()


def test_nearest_are_the_planted_ones() -> None:
    found = similarity(planted((3, 2, 4)))
    assert {*nearest(found, 0, 2)} == {1, 2} and nearest(found, 3, 1) == [4]
    assert nearest(np.eye(4), 1) == [0, 2, 3]


def slow_tree(similar: np.ndarray) -> list[tuple[set[int], float]]:
    """Average linkage by its definition: all pairs of members, at every join."""
    groups, joins = [{i} for i in range(len(similar))], []
    while len(groups) > 1:
        mean, i, j = max(
            (np.mean([similar[a, b] for a in groups[i] for b in groups[j]]), -i, -j)
            for i, j in itertools.combinations(range(len(groups)), 2)
        )
        groups[-i] |= groups.pop(-j)
        joins.append((set(groups[-i]), float(mean)))
    return joins


def test_the_tree_is_average_linkage() -> None:
    for seed in range(3):
        found = similarity(planted((3, 1, 2, 3), seed))
        joins, by_hand = tree(found), slow_tree(found)
        assert [{*j.left, *j.right} for j in joins] == [members for members, _ in by_hand]
        assert [j.similarity for j in joins] == pytest.approx([s for _, s in by_hand], abs=1e-12)
        # A group is never joined further in than its parts, so that the picture has no inversions.
        assert all(a.similarity >= b.similarity - 1e-12 for a, b in itertools.pairwise(joins))


def test_the_drawing_has_a_line_for_each_name_within_80_columns() -> None:
    found = similarity(planted((3, 2, 2)))
    names = ["a", "b", "c", "d", "e", "f", "a name that is as long as a line of text is wide and then some more of it"]
    text = drawn(tree(found), names)
    assert len(text) == 7 and max(map(len, text)) <= 79
    assert [line.split()[0] for line in text][:3] == ["a", "b", "c"]
    # The last join has a corner in the last column, at either end.
    assert sum(len(line) == 79 and line.endswith("+") for line in text) == 2
    assert drawn([], ["alone"]) == ["alone"]
    assert drawn(tree(np.ones((3, 3))), ["a", "b", "c"])[0].startswith("a -")


def test_mantel_is_the_rank_correlation_of_pairs_and_permuted_names_show_none() -> None:
    blocks = planted((3, 3, 3, 3))
    noise = 0.3 * np.random.default_rng(2).random(blocks[0].shape)
    a, b = similarity(blocks[:1]), similarity([blocks[0] + noise])
    upper = np.triu_indices(12, 1)
    found = mantel(a, b, "test", draws=199)
    assert found.value == pytest.approx(spearman(a[upper], b[upper]), abs=1e-12)
    assert found.p == 1 / 200
    order = np.random.default_rng(1).permutation(12)
    chance = mantel(a, b[np.ix_(order, order)], "test", draws=199)
    assert abs(chance.value) < 0.35 < found.value and chance.p > 0.05
    assert mantel(a, b, "test", draws=99) == mantel(a, b, "test", draws=99)
    assert mantel(a, np.ones_like(b), "test") == (None, None)


def test_losses_on_the_nearest_are_counted_and_gains_are_none() -> None:
    similar, chance = similarity(planted((4, 4, 4))), np.random.default_rng(3)
    loss = np.full((12, 12), np.nan)
    loss[0] = loss[5] = -0.5
    loss[0, 1:4], loss[5, [4, 6, 7]] = 0.3, 0.2
    loss[0, 9] = 0.5
    by_hand = sum(max(loss[a, b], 0) for a in (0, 5) for b in nearest(similar, a))
    found = on_nearest(similar, loss, "test", draws=499)
    assert found.value == pytest.approx(by_hand / 2.0) == pytest.approx(0.75)
    assert found.p < 0.02
    slow_p = 0
    for _ in range(499):
        order = chance.permutation(12)
        moved = similar[np.ix_(order, order)]
        share = sum(max(loss[a, b], 0) for a in (0, 5) for b in nearest(moved, a)) / 2.0
        slow_p += share >= 0.75 - 1e-12
    # Not the same permutations, but the same chance.
    assert abs(found.p - (slow_p + 1) / 500) < 0.03
    assert on_nearest(similar, np.full((12, 12), np.nan), "test") == (None, None)


def test_templates_overlap_as_their_pixels_do() -> None:
    names = ("circle", "square", "ring", "cat")
    found = overlaps(names)
    masks = [t[0] <= 0 for t in templates(names)]
    for i, k in itertools.product(range(4), repeat=2):
        both, either = int((masks[i] & masks[k]).sum()), int((masks[i] | masks[k]).sum())
        assert found[i, k] == pytest.approx(both / either)
    # A disc of 0.9 and a square of 0.78: the area is known.
    assert int(masks[0].sum()) == pytest.approx(np.pi * 0.9**2 * (RESOLUTION / 2 / EXTENT) ** 2, rel=0.01)
    pairs = most_alike(names, 2)
    assert pairs[0][:2] == ("circle", "square") and pairs[0][2] > pairs[1][2]
    with pytest.raises(KeyError):
        overlaps(("circle", "no such object"))
