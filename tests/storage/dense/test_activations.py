from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.dense import activations
from storage.dense.activations import ActivationRows, decode, encode
from storage.dense.shards import read_manifest, write_shard
from storage.errors import ArtifactDamaged

WIDTH = 3


def _shards(folder: Path, blocks: list[list[tuple[int, int]]]) -> tuple[list[Path], int]:
    """Shards of blocks (steps, positions), each row numbered in its first element."""
    paths, row = [], 0
    for index, shapes in enumerate(blocks):
        samples = []
        for number, (steps, positions) in enumerate(shapes):
            array = np.zeros((steps, positions, WIDTH), np.float32)
            array[..., 0] = np.arange(row, row + steps * positions).reshape(steps, positions)
            row += steps * positions
            samples.append((f"s{index}b{number}", {"npy": encode(array)}))
        paths.append(folder / f"{index}.tar")
        write_shard(paths[-1], samples, {})
    return paths, row


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> ActivationRows:
    paths, _ = _shards(tmp_path_factory.mktemp("some"), [[(2, 5), (1, 7), (3, 4)], [(1, 1), (2, 8)], [(5, 5), (2, 3)]])
    return ActivationRows(paths)


def _take(rows: ActivationRows, n: int, batch: int, seed: int, start: int = 0, pool_rows: int = 131072) -> np.ndarray:
    return np.stack(list(islice(rows.batches(batch, seed, start, pool_rows), n)))


def test_encode_is_npy_without_pickles() -> None:
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    assert np.array_equal(decode(encode(array)), array) and encode(array) == encode(array.copy(order="F"))
    for bad in (array[0], array.astype(np.float64), np.empty((1, 1, 1), object)):
        with pytest.raises(ValueError, match="expected"):
            encode(bad)


def test_rows_width_and_dtype_are_known_from_the_shards(some: ActivationRows) -> None:
    assert (some.rows, some.width, some.dtype) == (77, WIDTH, "float32")


@pytest.mark.parametrize("pool_rows", [1, 6, 20, 50, 77, 1000])
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_every_row_once_an_epoch(some: ActivationRows, pool_rows: int, batch: int) -> None:
    numbers = _take(some, 77 * 2 // batch + 1, batch, 5, pool_rows=pool_rows)[..., 0].ravel()
    first, second = numbers[:77], numbers[77:154]
    assert sorted(first) == sorted(second) == list(range(77))
    assert first.tolist() != second.tolist() and first.tolist() != sorted(first)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(1, 90), st.integers(1, 100), st.integers(0, 2**40))
def test_resumes_bit_for_bit(some: ActivationRows, start: int, batch: int, pool_rows: int, seed: int) -> None:
    whole = _take(some, start + 3, batch, seed, pool_rows=pool_rows)
    assert np.array_equal(_take(some, 3, batch, seed, start, pool_rows), whole[start:])


def test_the_order_is_fixed_for_ever(some: ActivationRows) -> None:
    # A change here breaks the resumption of trainings that began before it.
    assert _take(some, 2, 6, 1, pool_rows=30)[..., 0].astype(int).tolist() == [
        [35, 19, 38, 18, 27, 33],
        [44, 21, 42, 24, 17, 36],
    ]


def test_seeds_differ_and_batches_are_the_callers_own(some: ActivationRows) -> None:
    a, b = next(some.batches(77, 1)), next(some.batches(77, 2))
    assert not np.array_equal(a, b) and a.flags.writeable and a.base is None


def test_start_reads_nothing_that_precedes(tmp_path: Path) -> None:
    paths, _ = _shards(tmp_path, [[(1, 10)] * 20])
    rows = ActivationRows(paths, verify=False)
    read: list[str] = []
    reading = rows._read_run

    def counted(blocks: Any, out: Any) -> None:
        read.extend(block.member.key for block in blocks)
        reading(blocks, out)

    rows._read_run = counted  # type: ignore[method-assign]
    batches = rows.batches(10, 0, start=20 * 1000 + 18, pool_rows=10)
    next(batches)
    batches.close()
    assert 1 <= len(read) <= 3


def test_a_sample_is_the_first_batch_and_never_more_than_all_rows(some: ActivationRows) -> None:
    assert np.array_equal(some.sample(20, 3), next(some.batches(20, 3)))
    assert sorted(some.sample(500, 3)[:, 0]) == list(range(77))


def test_everything_is_in_order(some: ActivationRows) -> None:
    blocks = list(some.everything())
    assert [key for key, _ in blocks] == ["s0b0", "s0b1", "s0b2", "s1b0", "s1b1", "s2b0", "s2b1"]
    assert blocks[2][1].shape == (3, 4, WIDTH)
    assert np.concatenate([a.reshape(-1, WIDTH) for _, a in blocks])[:, 0].tolist() == list(range(77))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("runs", [False, True])
def test_members_that_are_left_out_are_never_given(some: ActivationRows, direct: bool, runs: bool) -> None:
    rows = ActivationRows(some.shards, direct=direct, runs=runs, without={"s0b1", "s1b1", "unknown"})
    kept = [n for n in range(77) if not (10 <= n < 17 or 30 <= n < 46)]
    assert rows.rows == len(kept) and [key for key, _ in rows.everything()] == ["s0b0", "s0b2", "s1b0", "s2b0", "s2b1"]
    numbers = _take(rows, 2 * len(kept) // 6 + 1, 6, 5, pool_rows=20)[..., 0].ravel()
    assert sorted(numbers[: len(kept)]) == sorted(numbers[len(kept) : 2 * len(kept)]) == kept


def test_a_damaged_shard_is_seen_before_its_rows(tmp_path: Path) -> None:
    paths, _ = _shards(tmp_path, [[(2, 5)], [(2, 5)]])
    data = bytearray(paths[1].read_bytes())
    data[read_manifest(paths[1]).members[0].offset + 200] ^= 1
    paths[1].write_bytes(data)
    for direct in (False, True):
        with pytest.raises(ArtifactDamaged, match=r"1\.tar"):
            next(ActivationRows(paths, direct=direct).batches(20, 0))
    with pytest.raises(ArtifactDamaged):
        list(ActivationRows(paths).everything())
    assert next(ActivationRows(paths, verify=False).batches(20, 0)).shape == (20, WIDTH)


def test_bfloat16_is_uint16(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("a", {"npy": encode(np.ones((1, 2, 3), np.uint16))})], {"dtype": "bfloat16"})
    rows = ActivationRows([tmp_path / "0.tar"])
    assert rows.dtype == "bfloat16" and next(rows.batches(1, 0)).dtype == np.uint16


def test_shards_must_go_together(tmp_path: Path) -> None:
    for index, width in enumerate((3, 4)):
        samples = [("a", {"npy": encode(np.ones((1, 2, width), np.float16))})]
        write_shard(tmp_path / f"{index}.tar", samples, {})
    with pytest.raises(ValueError, match="expected one kind"):
        ActivationRows([tmp_path / "0.tar", tmp_path / "1.tar"])
    with pytest.raises(ValueError, match="expected one kind"):
        ActivationRows([])
    with pytest.raises(ValueError, match="out of range"):
        ActivationRows([tmp_path / "0.tar"]).batches(0, 0)


@pytest.mark.parametrize("width", [1, 3, 64, 1280])
@pytest.mark.parametrize("shapes", [[(2, 5), (1, 7), (3, 4)], [(1, 1)], [(4, 64)] * 9])
def test_past_the_page_cache_the_rows_are_the_same(tmp_path: Path, width: int, shapes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((*shape, width), np.float32).astype(np.float16) for shape in shapes]
    write_shard(tmp_path / "0.tar", [(f"{i}", {"npy": encode(array)}) for i, array in enumerate(arrays)], {})
    read = [
        list(islice(ActivationRows([tmp_path / "0.tar"], direct=direct).batches(5, 1, pool_rows=30), 20))
        for direct in (False, True)
    ]
    assert np.array_equal(*read)
    expected = np.concatenate([array.reshape(-1, width) for array in arrays])
    whole = next(ActivationRows([tmp_path / "0.tar"], direct=True).batches(len(expected), 0))
    assert np.array_equal(whole[np.lexsort(whole.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("pool_rows", [6, 50, 1000])
def test_neighbours_that_are_drawn_together_are_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool, pool_rows: int
) -> None:
    monkeypatch.setattr(activations, "RUN_BYTES", 4 * 1024)
    samples = [[(f"s{s}b{i:02}", {"npy": encode(np.full((1, 3 + i % 4, 40), 100 * s + i, np.float16)), "txt": b"x" * i})
                for i in range(20)] for s in range(3)]  # fmt: skip
    paths = [tmp_path / f"{s}.tar" for s in range(3)]
    for path, each in zip(paths, samples, strict=True):
        write_shard(path, each, {})
    rows, alone = (ActivationRows(paths, direct=direct, runs=runs) for runs in (True, False))
    lengths = {len(run) for run in rows._runs}
    assert max(lengths) > 1 and sum(len(run) for run in rows._runs) == 60 and len(alone._runs) == 60
    epoch = _take(rows, rows.rows, 1, 3, pool_rows=pool_rows).reshape(-1, 40)
    everything = np.concatenate([array.reshape(-1, 40) for _, array in alone.everything()])
    assert np.array_equal(epoch[np.argsort(epoch[:, 0], kind="stable")], everything)
    assert np.array_equal(_take(rows, 5, 7, 3, start=9, pool_rows=pool_rows), _take(rows, 14, 7, 3, 0, pool_rows)[9:])


def test_runs_are_of_one_shard_and_of_their_size(tmp_path: Path) -> None:
    paths, _ = _shards(tmp_path, [[(2, 5)] * 5, [(2, 5)] * 3])
    blocks = ActivationRows(paths)._blocks
    one = 512 + 512  # of a member: what it holds, 120 bytes after 128, and the header of the next
    assert activations._runs(blocks, 0) == [range(i, i + 1) for i in range(8)]
    assert activations._runs(blocks, 2 * one) == [range(2), range(2, 4), range(4, 5), range(5, 7), range(7, 8)]
    assert activations._runs(blocks, 10**9) == [range(5), range(5, 8)]


def test_small_shards_are_drawn_block_by_block(some: ActivationRows, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(some._runs) == 7
    monkeypatch.setattr(activations, "RUNS_FROM", 1)
    assert len(ActivationRows(some.shards)._runs) == 3


@pytest.mark.parametrize("pool_rows", [131072, 20, 3])
@pytest.mark.parametrize("direct", [True, False])
def test_labels_come_with_their_rows_and_change_none(tmp_path: Path, direct: bool, pool_rows: int) -> None:
    """Every member's label is that of all of its rows, over pools, epochs and a start on the way."""
    paths, count = _shards(tmp_path, [[(2, 5), (1, 7), (3, 4)], [(1, 1), (2, 8)], [(5, 5), (2, 3)]])
    rows = ActivationRows(paths, direct=direct)
    of_row: dict[float, str] = {}
    for key, array in rows.everything():
        of_row |= {row[0]: key for row in array.reshape(-1, WIDTH)}
    assert len(of_row) == count
    labels = {key: (i, -1 if i % 2 else 7 * i) for i, key in enumerate(sorted({*of_row.values()}))}
    for start in (0, 11):
        plain = _take(rows, 20, 13, 5, start, pool_rows)
        told = list(islice(rows.labelled(labels, 13, 5, start, pool_rows), 20))
        assert np.array_equal(np.stack([batch for batch, _ in told]), plain)
        for batch, found in told:
            assert found.dtype == np.int64 and found.tolist() == [[*labels[of_row[row[0]]]] for row in batch]


def test_labels_are_of_every_member(some: ActivationRows) -> None:
    labels = {key: (0,) for key, _ in some.everything()}
    with pytest.raises(ValueError, match="no labels of 's1b0'; expected some for each of 7 members"):
        some.labelled({key: told for key, told in labels.items() if key != "s1b0"}, 5, 0)
    with pytest.raises(ValueError, match=r"members have \[1, 2\] labels; expected as many for each"):
        some.labelled(labels | {"s1b0": (0, 1)}, 5, 0)
    with pytest.raises(ValueError, match=r"batch 0, seed 0, .*: out of range"):
        some.labelled(labels, 0, 0)
