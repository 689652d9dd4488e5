"""Read blocks of large files straight into their place in memory, bypassing the page cache if files outgrow it.

Through the page cache, a block of 640 kB read at random costs a copy in pages of 4 kB, which takes more processor time
than shuffling its rows. With O_DIRECT the disk writes into our memory. Huge pages, because a disk request holds a
limited number of pieces, each at most a page. Figures: docs/log.md, `python -m benchmarks.data.reading`.
"""

import contextlib
import errno
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 512
"""Bytes. O_DIRECT needs offsets, sizes and addresses to be multiples of it. It is also the block size of a tar."""
_HUGE_PAGE = 2 << 20
_PIECE = 4 * _HUGE_PAGE
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def huge_memory(size: int) -> NDArray[np.uint8]:
    """At least `size` zero bytes, aligned to ALIGNMENT, in huge pages if the system has them."""
    size = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    # Private, unlike mmap's default: shared memory gets no huge pages.
    private: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A kernel without them refuses. Small pages work too.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def larger_than_cache(size: int) -> bool:
    """Whether files of `size` bytes in total outgrow the page cache, taken as half the memory."""
    return size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def read_at(path: Path, offset: int, out: Sequence[NDArray[np.uint8]], direct: bool) -> int:
    """Fill the arrays, one after the other, with the bytes from `offset` on; returns how many there were. Thread-safe.

    With `direct`, offset, addresses and sizes must be multiples of ALIGNMENT, and the page cache is bypassed unless the
    disk cannot do that (larger sectors, some network disks).
    """
    if direct and _DIRECT:
        try:
            return _read(path, offset, out, _DIRECT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return _read(path, offset, out, 0)


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits, read without the page cache."""
    found, piece, offset = hashlib.sha256(), huge_memory(_PIECE), 0
    while count := read_at(path, offset, [piece], direct=True):
        found.update(piece[:count].data)
        offset += count
    return found.hexdigest()


def _read(path: Path, offset: int, out: Sequence[NDArray[np.uint8]], flags: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        return os.preadv(descriptor, [piece.data for piece in out], offset)
    finally:
        os.close(descriptor)
