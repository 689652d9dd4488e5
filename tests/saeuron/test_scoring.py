from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeuron.errors import WidthMismatch
from saeuron.hooks import Step
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.scoring import FIXED_POINT, Accumulator, Totals, means, scores, select

D, N = 4, 12


def exact_sae(variant="batch_topk"):
    """Weights that are small multiples of 1/8: float32 sums of them do not round, whatever their order."""
    sae = SAE(SAEInfo(variant, D, N, 3, "unet.mid"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 8)
        sae.threshold.fill_(0.5)
    return sae.requires_grad_(False)


def maps(images, seed=0, shape=(3, 5)):
    """Activations [images, D, H, W] that are small multiples of 1/8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-16, 17, (images, D, *shape), generator=generator) / 8


def gathered(sae, batches, half="both"):
    """Totals of [(timestep, guided, maps)]."""
    accumulator = Accumulator(sae, half)
    for timestep, guided, output in batches:
        accumulator(Step(timestep, guided), output, None)
    return accumulator.totals()


def assert_equal(one: Totals, two: Totals):
    for name, a, b in zip(Totals._fields, one, two, strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("variant", ["topk", "batch_topk"])
def test_sums_are_the_naive_float64_sums(variant):
    sae, output = exact_sae(variant), {999: maps(5, 1), 500: maps(4, 2)}
    totals = gathered(sae, [(500, False, output[500]), (999, False, output[999])])
    assert totals.timesteps.tolist() == [999, 500]
    assert totals.n_images.tolist() == [5, 4]
    assert totals.n_rows.tolist() == [75, 60]
    for t, maps_of_step in enumerate(output.values()):
        for i in range(N):
            found, images = [], 0
            for image in maps_of_step.double():
                values = [float(sae.encode(image[:, y, x].float())[i]) for y in range(3) for x in range(5)]
                found += values
                images += any(v != 0 for v in values)
            assert totals.fires[t, i] == sum(v != 0 for v in found)
            assert totals.image_fires[t, i] == images
            assert totals.sum_fixed[t, i] / FIXED_POINT == sum(found)
            assert totals.sumsq_fixed[t, i] / FIXED_POINT == sum(v * v for v in found)
            assert totals.max[t, i] == max(found)
    assert (totals.fires > 0).any()
    assert (totals.fires == 0).any()


def test_sums_of_any_floats_are_within_half_a_unit_a_row():
    sae = SAE(SAEInfo("batch_topk", D, N, 3)).requires_grad_(False)
    rows = torch.randn(7, 50, D)
    totals = gathered(sae, [(1, False, rows)])
    f = sae.encode(rows).double()
    assert np.abs(totals.sum_fixed[0] / FIXED_POINT - f.sum((0, 1)).numpy()).max() <= 350 / 2 / FIXED_POINT
    assert np.abs(totals.sumsq_fixed[0] / FIXED_POINT - f.square().sum((0, 1)).numpy()).max() <= 350 / 2 / FIXED_POINT


@given(st.permutations(range(6)), st.lists(st.integers(1, 5), max_size=3))
def test_order_and_batches_do_not_change_a_bit(order, cuts):
    sae, output = exact_sae(), maps(6)
    whole = gathered(sae, [(t, False, output + t / 8) for t in (2, 1)])
    edges = sorted({0, 6, *cuts})
    pieces = [output[order[a:b]] for a, b in pairwise(edges)]
    assert_equal(gathered(sae, [(t, False, piece + t / 8) for piece in pieces for t in (1, 2)]), whole)


def test_each_half_is_read_from_a_guided_batch():
    sae, output = exact_sae(), maps(6)
    conditional = gathered(sae, [(1, True, output)], "conditional")
    assert_equal(conditional, gathered(sae, [(1, False, output[3:])]))
    assert_equal(gathered(sae, [(1, True, output)], "unconditional"), gathered(sae, [(1, False, output[:3])]))
    assert conditional.sum_fixed.sum() < gathered(sae, [(1, True, output)]).sum_fixed.sum()


def test_activations_of_another_width():
    with pytest.raises(WidthMismatch, match=r"SAE for unet\.mid expects activations of width 4"):
        Accumulator(exact_sae(), "both")(Step(1), torch.zeros(2, 5, 3, 3), None)


def slow_scores(sums, rows):
    """The formula, concept by concept, step by step, latent by latent."""
    C, T, n = sums.shape
    d = 1e-8
    out = np.zeros(sums.shape)
    for c in range(C):
        for t in range(T):
            own = [sums[c, t, i] / FIXED_POINT / rows[c, t] for i in range(n)]
            others = [k for k in range(C) if k != c]
            pooled_rows = sum(int(rows[k, t]) for k in others)
            other = [sum(int(sums[k, t, i]) for k in others) / FIXED_POINT / pooled_rows for i in range(n)]
            for i in range(n):
                out[c, t, i] = own[i] / (sum(own) + d) - other[i] / (sum(other) + d)
    return out


def random_sums(concepts=3, steps=2, seed=0):
    generator = np.random.default_rng(seed)
    sums = generator.integers(0, 50 * FIXED_POINT, size=(concepts, steps, N))
    sums[generator.random(sums.shape) < 0.4] = 0
    # Unequal numbers of rows: a mean of means would differ from the pooled mean.
    return sums, generator.integers(10, 1000, size=(concepts, steps))


def totals_of(sums, rows, timesteps=(999, 499)):
    empty = {"fires": np.uint64, "image_fires": np.uint32, "sumsq_fixed": np.int64, "max": np.float32}
    return Totals(
        timesteps=np.array(timesteps, dtype=np.int32),
        sum_fixed=sums.astype(np.int64),
        n_rows=rows.astype(np.uint64),
        n_images=rows.astype(np.uint32),
        **{name: np.zeros(sums.shape, dtype) for name, dtype in empty.items()},
    )


@pytest.mark.parametrize("concepts", [2, 3, 5])
def test_scores_are_the_slow_reference(concepts):
    sums, rows = random_sums(concepts)
    found = scores(torch.from_numpy(sums), torch.from_numpy(rows))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), slow_scores(sums, rows), rtol=0, atol=1e-12)
    # Each share sums to one (but for d), so the scores of a step sum to zero.
    np.testing.assert_allclose(found.sum(-1).numpy(), 0, atol=1e-6)


def test_the_mean_of_the_others_is_pooled_over_rows():
    sums = np.zeros((3, 1, 2), dtype=np.int64)
    sums[:, 0] = np.array([[1, 1], [10, 0], [0, 1000]]) * FIXED_POINT
    rows = np.array([[1], [10], [1000]])
    score = scores(torch.from_numpy(sums), torch.from_numpy(rows))[0, 0]
    assert score.tolist() == pytest.approx([0.5 - 10 / 1010, 0.5 - 1000 / 1010], abs=1e-6)


def test_a_concept_on_which_nothing_fires_scores_without_dividing_by_zero():
    sums, rows = random_sums()
    sums[0] = 0
    found = scores(torch.from_numpy(sums), torch.from_numpy(rows))
    assert torch.isfinite(found).all()
    assert (found[0] <= 0).all()


def test_means_of_no_rows_are_zero():
    assert means(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).tolist() == [[0, 0]]


def test_select_takes_the_best_first_and_the_lower_index_of_ties():
    score = torch.tensor([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert select(score, 3).tolist() == [[1, 2, 4], [0, 1, 2]]
    assert select(score, 1).tolist() == [[1], [0]]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 30))
def test_select_is_the_slow_reference(values, n):
    slow = sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]
    assert select(torch.tensor(values, dtype=torch.float64), n).tolist() == slow
