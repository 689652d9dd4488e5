"""Activations: `.npy` members [steps, positions, D] in shards, read back as shuffled rows [batch, D].

numpy has no bfloat16: its bits are stored as uint16, and uint16 is read as bfloat16 and nothing else.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.dense.direct import ALIGNMENT, aligned, huge_memory, larger_than_cache, read_at
from storage.dense.shards import Member, check, npy_header, read_manifest, read_member
from storage.errors import ArtifactDamaged

Rows = NDArray[Any]
POOL_ROWS = 131072
"""Default number of rows that are shuffled together."""
RUN_BYTES = 4 << 20
"""Bytes of neighbouring blocks that are drawn and read together: a disk reads one large piece faster than many."""
RUNS_FROM = 16 << 30
"""Bytes of shards from which neighbouring blocks are read together. With fewer, a pool would mix too few runs."""
_GAP = 1 << 16
_PIECES = 256
"""Most blocks of a run: a system call fills at most 1,024 places."""
_HEADER = 128
"""Bytes of the header that `encode` writes before the numbers: numpy's for any 3-dimensional shape."""
_STORED = {"float16": "float16", "float32": "float32", "uint16": "bfloat16"}


def encode(array: Rows) -> bytes:
    """An array [steps, positions, D] as `.npy` bytes.

    Raises ValueError for a dtype other than float16, float32 or uint16 (which holds bfloat16).
    """
    if array.ndim != 3 or array.dtype.name not in _STORED:
        raise ValueError(
            f"activations {array.dtype} {array.shape}: expected [steps, positions, D] of float16, float32 or uint16 "
            f"(the bits of bfloat16)"
        )
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode(data: bytes) -> Rows:
    """The array that `encode` wrote. Raises ValueError for a pickle."""
    shape, dtype, start = npy_header(data)
    return np.frombuffer(data, dtype, offset=start).reshape(shape).copy()


@dataclass(frozen=True)
class _Block:
    """One member of a shard: `rows` consecutive rows."""

    shard: int
    member: Member
    rows: int


@dataclass(frozen=True)
class _Pool:
    """The blocks of one pool, their places in memory, and the order of its rows.

    Memory is rows of D numbers after a first header. A block lies in memory as in its file, header first, and begins at
    a row whose offset in bytes is a multiple of ALIGNMENT; so between two blocks there is a gap of a row or more.
    """

    runs: list[range]
    """Indices of the blocks. The blocks of a run are neighbours in a shard, and are read at once."""
    starts: NDArray[np.int64]
    """The row at which each block begins, and the row after the last block."""
    order: NDArray[np.int64]
    """Indices of the rows to give, in order."""

    @property
    def blocks(self) -> NDArray[np.int64]:
        """Index of each block, as they lie in memory."""
        return np.concatenate([np.arange(run.start, run.stop) for run in self.runs])


class ActivationRows:
    """The rows of one hookpoint over many shards: every (step, position) of every image is a row of D numbers.

    Raises ArtifactMissing or ArtifactDamaged if a shard is not whole, ValueError if shards differ in width or dtype.
    """

    rows: int
    """Number of rows."""
    width: int
    """D, the numbers in a row."""
    largest: int
    """Rows of the largest block; a block is an image's."""
    dtype: str
    """"float16", "float32" or "bfloat16"; bfloat16 comes as uint16 arrays."""

    def __init__(
        self,
        shards: Sequence[Path],
        verify: bool = True,
        readers: int = 16,
        direct: bool | None = None,
        runs: bool | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Read the sidecars. `verify` checks each shard's SHA-256 before its first use.

        `readers` threads read, because a disk is fast only with many requests at once. `direct` bypasses the page cache
        (by default, if the shards outgrow it). `runs` draws neighbouring blocks together, up to RUN_BYTES (by default,
        if the shards hold RUNS_FROM or more). Members whose key is in `without` are left out.
        """
        self.shards = tuple(shards)
        self._manifests = [read_manifest(path) for path in self.shards]
        self._readers = readers
        size = sum(manifest.bytes for manifest in self._manifests)
        self._direct = larger_than_cache(size) if direct is None else direct
        self._unverified = set(range(len(self.shards))) if verify else set()
        self._verifying = [threading.Lock() for _ in self.shards]
        # Parsing one takes as long as reading 50 kB, and all blocks of a shape have the same header.
        self._headers: set[tuple[bytes, tuple[int, ...] | None, int]] = set()
        found = [
            (shard, member, _STORED.get(member.dtype or "", f"{member.dtype}"))
            for shard, manifest in enumerate(self._manifests)
            for member in manifest.members
            if member.extension == "npy" and member.key not in without
        ]
        kinds = {(len(member.shape or ()), (member.shape or (0,))[-1], dtype) for _, member, dtype in found}
        if len(kinds) != 1 or (kind := next(iter(kinds)))[0] != 3 or kind[2] not in _STORED.values():
            raise ValueError(
                f"{len(self.shards)} shards hold arrays of (dimensions, width, dtype) {sorted(map(str, kinds))}: "
                f"expected one kind, [steps, positions, D] of one hookpoint"
            )
        _, self.width, self.dtype = kind
        self._stored = "uint16" if self.dtype == "bfloat16" else self.dtype
        self._blocks = [_Block(s, m, m.shape[0] * m.shape[1]) for s, m, _ in found if m.shape is not None]
        self._sizes = np.array([block.rows for block in self._blocks], dtype=np.int64)
        self._runs = _runs(self._blocks, RUN_BYTES if (size >= RUNS_FROM if runs is None else runs) else 0)
        self._run_sizes = np.array([self._sizes[run.start : run.stop].sum() for run in self._runs], dtype=np.int64)
        self._between = huge_memory(_GAP)
        self._row_bytes = self.width * np.dtype(self._stored).itemsize
        unit = math.lcm(self._row_bytes, ALIGNMENT) // self._row_bytes
        room = [-(-aligned(block.member.bytes) // (unit * self._row_bytes)) * unit for block in self._blocks]
        self._room = np.array(room, dtype=np.int64)
        self.rows, self.largest = int(self._sizes.sum()), int(self._sizes.max())
        if self.rows == 0:
            raise ValueError(f"{len(self.shards)} shards hold no rows")

    def batches(self, batch: int, seed: int, start: int = 0, pool_rows: int = POOL_ROWS) -> Generator[Rows, None, None]:
        """Endless batches [batch, D], from batch number `start` on; every row comes once an epoch.

        An epoch takes the blocks of all shards, or runs of them, in random order, cuts them into even pools of at most
        `pool_rows` rows (plus one block or run), and shuffles the rows of each pool. Batch k depends on (seed, k,
        shards, batch, pool_rows) alone, so a resumed training sees the same bytes; rows before `start` are not read.
        A batch may straddle pools and epochs. The next pool is read while this one is used, so memory holds two pools.
        Raises ValueError for a number out of range; while reading, ArtifactDamaged.
        """
        return self._batches(batch, seed, start, pool_rows)

    def labelled(
        self,
        labels: Mapping[str, Sequence[int]],
        batch: int,
        seed: int,
        start: int = 0,
        pool_rows: int = POOL_ROWS,
    ) -> Generator[tuple[Rows, NDArray[np.int64]], None, None]:
        """The same batches as `batches` gives, each with the labels of its rows, int64 [batch, G].

        `labels` has G numbers for the key of each member, which all of its rows get. Raises as `batches`, and
        ValueError for a member without labels or with another number of them.
        """
        absent = next((b.member.key for b in self._blocks if b.member.key not in labels), None)
        if absent is not None:
            raise ValueError(f"no labels of {absent!r}; expected some for each of {len(self._blocks)} members")
        table = [tuple(labels[b.member.key]) for b in self._blocks]
        if len({len(each) for each in table}) != 1:
            raise ValueError(f"members have {sorted({len(each) for each in table})} labels; expected as many for each")
        return self._batches(batch, seed, start, pool_rows, np.array(table, dtype=np.int64))

    def sample(self, n: int, seed: int) -> Rows:
        """The first n rows [n, D] in a shuffled order, without repeats; all rows if there are fewer than n."""
        batches = self.batches(min(n, self.rows), seed)
        try:
            return next(batches)
        finally:
            batches.close()

    def everything(self) -> Iterator[tuple[str, Rows]]:
        """Every block in the order of the shards: (key, array [steps, positions, D])."""
        for block in self._blocks:
            yield block.member.key, self._read(block)

    def _batches(
        self, batch: int, seed: int, start: int, pool_rows: int, labels: NDArray[np.int64] | None = None
    ) -> Generator[Any, None, None]:
        """Batches; with `labels`, [blocks, G], pairs of a batch and the labels of its rows."""
        if batch < 1 or seed < 0 or start < 0 or pool_rows < 1:
            raise ValueError(f"batch {batch}, seed {seed}, start {start}, pool_rows {pool_rows}: out of range")
        return self._cut(batch, self._filled(start * batch, seed, pool_rows), labels)

    def _cut(
        self, batch: int, pools: Generator[tuple[Rows, _Pool], None, None], labels: NDArray[np.int64] | None
    ) -> Generator[Any, None, None]:
        try:
            out, have = np.empty((batch, self.width), dtype=self._stored), 0
            told: list[NDArray[np.int64]] = []
            for rows, pool in pools:
                at, order = 0, pool.order
                # A block begins at its place in memory and ends before the next one begins.
                blocks = None if labels is None else pool.blocks
                while at < len(order):
                    some = order[at : at + batch - have]
                    # Shuffles and copies for the caller at once. In mode "raise" numpy would copy once more.
                    np.take(rows, some, axis=0, out=out[have : have + len(some)], mode="clip")
                    if labels is not None and blocks is not None:
                        told.append(labels[blocks[np.searchsorted(pool.starts, some, side="right") - 1]])
                    at, have = at + len(some), have + len(some)
                    if have == batch:
                        yield out if labels is None else (out, np.concatenate(told))
                        told.clear()
                        out, have = np.empty((batch, self.width), dtype=self._stored), 0
        finally:
            pools.close()

    def _filled(self, row: int, seed: int, pool_rows: int) -> Generator[tuple[Rows, _Pool], None, None]:
        """Each pool's rows in memory, and the pool. The pool after the next overwrites the memory."""
        pools = self._pools(row, seed, pool_rows)
        # Two buffers, filled in turn: allocating one for each pool costs as much as reading it.
        spare = np.empty(0, np.uint8)
        executor = ThreadPoolExecutor(self._readers, thread_name_prefix="activations")
        try:
            pool = next(pools)
            memory, parts = self._start(executor, pool, spare)
            while True:
                # Before waiting for this pool, or the disk would be idle between two pools.
                following = next(pools)
                into, begun = self._start(executor, following, spare)
                for part in parts:
                    part.result()
                yield self._rows_in(memory, pool), pool
                spare, memory, pool, parts = memory, into, following, begun
        finally:
            executor.shutdown(cancel_futures=True)

    def _rows_in(self, memory: NDArray[np.uint8], pool: _Pool) -> Rows:
        """The pool's memory as rows [rows and gaps, D]."""
        count = int(pool.starts[-1]) - 1  # A header precedes the first row, so the last row is a gap at least in part.
        return memory[_HEADER : _HEADER + count * self._row_bytes].view(self._stored).reshape(count, self.width)

    def _pools(self, row: int, seed: int, pool_rows: int) -> Iterator[_Pool]:
        count = -(-self.rows // pool_rows)
        epoch, row = divmod(row, self.rows)
        while True:
            order = _shuffled(len(self._runs), seed, epoch)
            ends = np.cumsum(self._run_sizes[order])
            starts = ends - self._run_sizes[order]
            pool_of = starts * count // self.rows
            edges = np.searchsorted(pool_of, np.arange(count + 1))
            for index, (low, high) in enumerate(pairwise(edges)):
                # A block larger than a pool leaves the next pool empty.
                if low == high or ends[high - 1] <= row:
                    continue
                rows = int(ends[high - 1] - starts[low])
                chosen = [self._runs[i] for i in order[low:high]]
                blocks = np.concatenate([np.arange(run.start, run.stop) for run in chosen])
                sizes = self._sizes[blocks]
                begin = np.concatenate([[0], np.cumsum(self._room[blocks])])
                gaps = begin[:-1] - (np.cumsum(sizes) - sizes)
                at_place = np.empty(rows, np.int64)
                at_place[_shuffled(rows, seed, epoch, index + 1)] = np.arange(rows) + np.repeat(gaps, sizes)
                yield _Pool(chosen, begin, at_place[max(0, row - int(starts[low])) :])
            epoch, row = epoch + 1, 0

    def _start(
        self, executor: ThreadPoolExecutor, pool: _Pool, memory: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], list[Future[None]]]:
        """Begin to read the pool into `memory`, or into a larger buffer if that is too small."""
        if memory.nbytes < (size := int(pool.starts[-1]) * self._row_bytes):
            memory = huge_memory(size + size // 16)  # Pools differ by a few blocks.
        starts = iter(pool.starts.tolist())
        # One iterator shared by all readers: a future for each block would cost as much as reading it.
        todo = iter([([self._blocks[i] for i in run], [*islice(starts, len(run))]) for run in pool.runs])

        def read() -> None:
            for blocks, places in todo:
                at = (start * self._row_bytes for start in places)
                self._read_run(blocks, [memory[a:][: aligned(b.member.bytes)] for a, b in zip(at, blocks, strict=True)])

        return memory, [executor.submit(read) for _ in range(self._readers)]

    def _read_run(self, blocks: Sequence[_Block], out: Sequence[NDArray[np.uint8]]) -> None:
        """Read blocks from the file straight to their places: a copy in between would cost as much as the disk."""
        path, first, last = self._checked(blocks[0]), blocks[0].member, blocks[-1].member
        pieces = [out[0]]
        for (before, block), place in zip(pairwise(blocks), out[1:], strict=True):
            pieces += [self._between[: _gap(before, block)], place]
        expected = last.offset + last.bytes - first.offset
        if (found := read_at(path, first.offset, pieces, self._direct)) < expected:
            raise ArtifactDamaged(path, f"{expected} bytes at {first.offset}", f"{found}")
        for block, place in zip(blocks, out, strict=True):
            self._check_header(path, block, place)

    def _check_header(self, path: Path, block: _Block, out: NDArray[np.uint8]) -> None:
        member = block.member
        header = out[:_HEADER].tobytes()
        if (known := (header, member.shape, member.bytes)) in self._headers:
            return
        try:
            shape, dtype, start = npy_header(header)
        except ValueError as error:
            raise ArtifactDamaged(path, f"the array {member.key}", f"no array ({error})") from None
        expected = (member.shape, self._stored, _HEADER, _HEADER + block.rows * self._row_bytes)
        if (shape, dtype.name, start, member.bytes) != expected:
            raise ArtifactDamaged(path, f"{member.key} {self._stored} {member.shape}", f"{dtype} {shape}")
        self._headers.add(known)

    def _read(self, block: _Block) -> Rows:
        path = self._checked(block)
        try:
            array = decode(read_member(path, block.member))
        except ValueError as error:
            raise ArtifactDamaged(path, f"the array {block.member.key}", f"no array ({error})") from None
        if array.shape != block.member.shape:
            raise ArtifactDamaged(path, f"{block.member.key} {block.member.shape}", f"{array.shape}")
        return array

    def _checked(self, block: _Block) -> Path:
        """The path of the block's shard; its hash is checked before the first read."""
        path = self.shards[block.shard]
        if block.shard in self._unverified:
            with self._verifying[block.shard]:
                if block.shard in self._unverified:
                    check(path, self._manifests[block.shard], self._direct)
                    self._unverified.discard(block.shard)
        return path


def _gap(before: _Block, block: _Block) -> int:
    """Bytes between two blocks of a shard: the tar header of the second, and other members."""
    return block.member.offset - before.member.offset - aligned(before.member.bytes)


def _runs(blocks: Sequence[_Block], most: int) -> list[range]:
    """Runs of neighbouring blocks, as indices, of at most `most` bytes; a block without near neighbours is alone."""
    runs, first = [], 0
    for i in range(1, len(blocks) + 1):
        if i < len(blocks):
            head, before, block = blocks[first], blocks[i - 1], blocks[i]
            spanned = block.member.offset + aligned(block.member.bytes) - head.member.offset
            near = block.shard == head.shard and 0 <= _gap(before, block) <= _GAP
            if near and spanned <= most and i - first < _PIECES:
                continue
        runs.append(range(first, i))
        first = i
    return runs


def _shuffled(n: int, *key: int) -> NDArray[np.int64]:
    # numpy promises the same raw bits in every version, but not the same `permutation`.
    bits = np.random.PCG64(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(bits, kind="stable")
