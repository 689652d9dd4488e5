"""The shuffled read that training does, against reading the same files from end to end: wanted at least 0.8.

    python -m benchmarks.data.reading
    python -m benchmarks.data.reading --gigabytes 0.5

Both read cold: the files are taken out of the page cache before each turn, and the turns alternate, so that a busy
machine slows both alike. Rates count the bytes that came from the disk (Linux's /proc/self/io), and of the shuffled
read no more than the rows it gave. The sequential limit is the best of one thread and of `--readers` threads with a
shard each, these through the page cache and past it, 8 MB a read, nothing done with the bytes.

The shuffled read gives batches of 4,096 rows from all over the shards, epoch after epoch from one generator, as in
training on shards of over 16 GiB, which outgrow the page cache: in runs of neighbours, and past the cache. Through the
cache it is timed apart, and so is its first epoch, which finds its memory and verifies the hashes. The processor's
seconds say what a rate needs on a machine whose cores are taken.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.results import Figure, parser, show
from storage.dense.activations import ActivationRows, encode
from storage.dense.direct import huge_memory, read_at
from storage.dense.shards import write_shard

STEPS, POSITIONS, WIDTH = 10, 25, 1280
"""A sample of Stable Diffusion 1.5: 640 kB, 250 rows of 2,560 bytes."""
BATCH = 4096
_PIECE = 8 << 20


def main() -> None:
    """Write shards, read them both ways in turn, print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--gigabytes", type=float, default=4.0)
    arguments.add_argument("--shards", type=int, default=8)
    arguments.add_argument("--readers", type=int, default=16)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where to put the shards, on the disk to be measured")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeuron-reading-", dir=options.folder) as name:
        samples = max(1, round(options.gigabytes * 1e9 / (STEPS * POSITIONS * WIDTH * 2) / options.shards))
        shards = _write(Path(name), options.shards, samples)
        past, through = (
            ActivationRows(shards, verify=False, readers=options.readers, direct=direct, runs=True)
            for direct in (True, False)
        )
        count = past.rows // BATCH
        stream, buffered = past.batches(BATCH, seed=0), through.batches(BATCH, seed=0)
        _take(stream, count)
        _take(buffered, count)
        kinds: dict[str, Callable[[], None]] = {
            "one": lambda: _sequential(shards, 1),
            "many": lambda: _sequential(shards, options.readers),
            "past": lambda: _past(shards, options.readers),
            "shuffled": lambda: _take(stream, count),
            "buffered": lambda: _take(buffered, count),
            "first": lambda: _take(
                ActivationRows(shards, readers=options.readers, direct=True, runs=True).batches(BATCH, seed=0), count
            ),
        }
        titles = {
            "shuffled": "shuffled read for training",
            "buffered": "  through the page cache",
            "first": "  its first epoch, with hashes",
        }
        given = count * BATCH * WIDTH * 2
        turns: dict[str, list[Turn]] = {kind: [] for kind in kinds}
        for _ in range(options.repeats):
            for kind, read in kinds.items():
                for path in shards:
                    drop(path)
                turns[kind].append(_timed(read, given if kind in titles else None))
        stream.close()
        buffered.close()
    kinds_of_limit = (turns[kind] for kind in ("one", "many", "past"))
    limits = [max(turn.rate for turn in each) for each in zip(*kinds_of_limit, strict=True)]
    middle = statistics.median(limits)
    figures = [Figure("sequential limit of the disk", middle, "GB/s"), *_spread(limits, "GB/s")]
    for kind, title in titles.items():
        ratios = [turn.rate / limit for turn, limit in zip(turns[kind], limits, strict=True)]
        rate = statistics.median(turn.rate for turn in turns[kind])
        figures.append(Figure(title, rate, "GB/s", middle, statistics.median(ratios)))
        figures += _spread(ratios, "ratio")
    for kind, title in {
        "one": "sequential, one thread",
        "many": "sequential, threads",
        "past": "sequential, threads, past the page cache",
        **titles,
    }.items():
        figures.append(Figure(f"{title.strip()}: processor", statistics.median(t.work for t in turns[kind]), "s/GB"))
    show(figures, options.json)


class Turn(NamedTuple):
    """One timed read."""

    rate: float
    """GB/s."""
    work: float
    """Seconds of processor for a GB."""


def _timed(read: Callable[[], None], given: int | None) -> Turn:
    before, start, work = _from_disk(), time.perf_counter(), time.process_time()
    read()
    took, worked, size = time.perf_counter() - start, time.process_time() - work, _from_disk() - before
    size = min(size, given or size)
    return Turn(size / 1e9 / took, worked / (size / 1e9))


def _from_disk() -> int:
    """Bytes that this process has had read from the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in islice(batches, count):
        pass


def drop(path: Path) -> None:
    """Take the file out of the page cache, so that the next read comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _write(folder: Path, count: int, samples: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.tar" for index in range(count)]
    # The same noise in every sample: what it is does not matter, for nothing compresses it.
    data = encode(rng.standard_normal((STEPS, POSITIONS, WIDTH), np.float32).astype(np.float16))
    for path in paths:
        write_shard(path, ((f"{index:06}", {"npy": data}) for index in range(samples)), {})
    return paths


def _sequential(shards: Sequence[Path], threads: int) -> None:
    def read(path: Path) -> None:
        buffer = bytearray(_PIECE)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(read, shards))


def _past(shards: Sequence[Path], threads: int) -> None:
    def read(path: Path) -> None:
        piece, offset = huge_memory(_PIECE), 0
        while count := read_at(path, offset, [piece], direct=True):
            offset += count

    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(read, shards))


def _spread(values: Sequence[float], unit: str) -> list[Figure]:
    return [Figure("  least", min(values), unit), Figure("  most", max(values), unit)]


if __name__ == "__main__":
    main()
