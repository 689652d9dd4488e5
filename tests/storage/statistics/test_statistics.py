from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.statistics.sums import FIXED_POINT, Sums, merge, read_counts, read_statistics, write_statistics
from storage.tables import write_table
from tests.storage.conftest import random_sums

NAMES = ("timesteps", "fires", "image_fires", "sum_fixed", "sumsq_fixed", "max", "n_rows", "n_images")


def _bytes(sums: Sums) -> list[bytes]:
    return [getattr(sums, name).tobytes() for name in NAMES]


def _replaced(sums: Sums, **arrays: np.ndarray) -> Sums:
    return Sums(**{name: getattr(sums, name) for name in NAMES} | arrays)


def test_round_trip_is_sorted_and_dense(tmp_path: Path) -> None:
    sums = random_sums(1, (40, 20, 981))
    write_statistics(tmp_path, sums)
    read = read_statistics(tmp_path)
    assert read.timesteps.tolist() == [20, 40, 981]
    order = [1, 0, 2]
    for name in NAMES[1:]:
        assert np.array_equal(getattr(read, name), getattr(sums, name)[order])
        assert getattr(read, name).dtype == getattr(sums, name).dtype
    table = pq.read_table(tmp_path / "statistics.parquet")
    assert table.num_rows == 3 * 7 and (table["sum_fixed"].to_numpy() == 0).any()
    assert table.column_names == [
        "timestep",
        "latent",
        "fires",
        "image_fires",
        "sum_fixed",
        "sumsq_fixed",
        "max",
    ]


def test_written_twice_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_statistics(tmp_path / name, random_sums(1))
    for file in ("statistics.parquet", "cells.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_encodings_and_row_groups(tmp_path: Path) -> None:
    write_statistics(tmp_path, random_sums(2, (1, 2, 3), latents=70_000))
    parquet = pq.ParquetFile(tmp_path / "statistics.parquet").metadata
    assert parquet.num_row_groups == 3
    columns = [parquet.row_group(0).column(i) for i in range(7)]
    assert [c.compression for c in columns] == ["ZSTD"] * 7
    assert ["DELTA_BINARY_PACKED" in c.encodings for c in columns] == [True] * 4 + [False] * 3
    assert ["BYTE_STREAM_SPLIT" in c.encodings for c in columns] == [False] * 4 + [True] * 3
    file = str(tmp_path / "statistics.parquet")
    assert duckdb.sql("SELECT count(*) FROM read_parquet(?)", params=[file]).fetchall() == [(210_000,)]


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 4), st.integers(0, 1000))
def test_merge_has_the_same_bits_in_every_order(order: list[int], cut: int, seed: int) -> None:
    steps = [(20, 40), (40, 60), (20,), (60, 1), (40,)]
    parts = [random_sums(seed + i, steps[i], scale=10.0**i) for i in range(5)]
    whole = merge(parts)
    shuffled = [parts[i] for i in order]
    assert _bytes(merge(shuffled)) == _bytes(whole)
    assert _bytes(merge([merge(shuffled[:cut]), merge(shuffled[cut:])])) == _bytes(whole)


def test_merging_adds_rows_of_the_same_timestep() -> None:
    a, b = random_sums(1, (20,)), random_sums(2, (20, 40))
    both = merge([a, b])
    assert both.timesteps.tolist() == [20, 40]
    assert np.array_equal(both.sum_fixed[0], a.sum_fixed[0] + b.sum_fixed[0])
    assert np.array_equal(both.max[0], np.maximum(a.max[0], b.max[0]))
    assert both.n_images[1] == b.n_images[1] and FIXED_POINT == 2**24


def test_the_sign_of_zero_does_not_depend_on_the_order() -> None:
    minus = _replaced(random_sums(1, (20,)), max=np.full((1, 7), -0.0, np.float32))
    plus = _replaced(minus, max=np.zeros((1, 7), np.float32))
    assert _bytes(merge([minus, plus])) == _bytes(merge([plus, minus]))


def test_what_does_not_fit() -> None:
    sums = random_sums(1, (20,))
    for name, value in (("sum_fixed", 2**62), ("sumsq_fixed", 2**62), ("n_images", 2**31)):
        array = getattr(sums, name)
        large = _replaced(sums, **{name: np.full_like(array, value)})
        with pytest.raises(OverflowError, match=name):
            merge([large, large])
    negative = _replaced(sums, sum_fixed=np.full((1, 7), -(2**62) - 1, np.int64))
    with pytest.raises(OverflowError):
        merge([negative, negative])
    with pytest.raises(ValueError, match="one N"):
        merge([sums, random_sums(1, (20,), latents=8)])
    with pytest.raises(ValueError, match="0 parts"):
        merge([])
    with pytest.raises(ValueError, match="fires"):
        _replaced(sums, fires=sums.fires.astype(np.int64))
    with pytest.raises(ValueError, match="once"):
        random_sums(1, (20, 20))
    with pytest.raises(ValueError, match="NaN"):
        _replaced(sums, max=np.full((1, 7), np.nan, np.float32))


def test_counts_are_the_part_of_the_sums_that_scores_need(tmp_path: Path) -> None:
    write_statistics(tmp_path, random_sums(1))
    whole, counts = read_statistics(tmp_path), read_counts(tmp_path)
    for name in ("timesteps", "sum_fixed", "n_rows"):
        found, expected = getattr(counts, name), getattr(whole, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    (tmp_path / "cells.parquet").unlink()
    with pytest.raises(ArtifactMissing):
        read_counts(tmp_path)


def test_damaged_statistics_are_found_when_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        read_statistics(tmp_path)
    write_statistics(tmp_path, random_sums(1))
    whole = (tmp_path / "statistics.parquet").read_bytes()
    (tmp_path / "statistics.parquet").write_bytes(whole[:-20])
    with pytest.raises(ArtifactDamaged, match=r"statistics\.parquet"):
        read_statistics(tmp_path)
    (tmp_path / "statistics.parquet").write_bytes(whole)
    write_table(tmp_path / "cells.parquet", pq.read_table(tmp_path / "statistics.parquet"))
    with pytest.raises(ArtifactDamaged, match=r"cells\.parquet"):
        read_statistics(tmp_path)
