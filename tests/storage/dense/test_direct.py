import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from storage.dense import direct
from storage.dense.direct import ALIGNMENT, aligned, huge_memory, larger_than_cache, read_at

CONTENT = np.random.default_rng(0).integers(0, 256, 10 * ALIGNMENT + 7, np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT.tobytes())
    return path


def test_sizes_are_rounded_up_to_blocks() -> None:
    assert [aligned(n) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def test_memory_is_aligned_writable_and_zero() -> None:
    memory = huge_memory(3 << 20)
    assert memory.nbytes >= 3 << 20 and memory.ctypes.data % ALIGNMENT == 0
    assert not memory.any() and memory.flags.writeable


@pytest.mark.parametrize("past", [False, True])
def test_reads_what_is_there(file: Path, past: bool) -> None:
    memory = huge_memory(1)[: 4 * ALIGNMENT]
    assert read_at(file, 2 * ALIGNMENT, [memory], past) == memory.nbytes
    assert np.array_equal(memory, CONTENT[2 * ALIGNMENT : 6 * ALIGNMENT])
    assert read_at(file, 8 * ALIGNMENT, [memory], past) == 2 * ALIGNMENT + 7
    assert np.array_equal(memory[: 2 * ALIGNMENT + 7], CONTENT[8 * ALIGNMENT :])


@pytest.mark.parametrize("refused_at", ["open", "preadv"])
def test_a_disk_that_cannot(file: Path, monkeypatch: pytest.MonkeyPatch, refused_at: str) -> None:
    flags: dict[int, int] = {}
    open_file, read = os.open, os.preadv

    def opening(path: Path, flag: int) -> int:
        if refused_at == "open" and flag & direct._DIRECT:
            raise OSError(errno.EINVAL, "no")
        descriptor = open_file(path, flag & ~direct._DIRECT)
        flags[descriptor] = flag
        return descriptor

    def reading(descriptor: int, *rest: object) -> int:
        if flags[descriptor] & direct._DIRECT:
            raise OSError(errno.EINVAL, "no")
        return read(descriptor, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(direct, "_DIRECT", 1 << 14)
    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "preadv", reading)
    memory = huge_memory(1)[:ALIGNMENT]
    assert read_at(file, 0, [memory], True) == ALIGNMENT and np.array_equal(memory, CONTENT[:ALIGNMENT])


@pytest.mark.parametrize("size", [0, 1, 512, 8 << 20, (8 << 20) + 513])
def test_the_hash_of_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(np.resize(CONTENT, size).tobytes())
    assert direct.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_error_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_at(tmp_path / "none", 0, [huge_memory(1)[:ALIGNMENT]], True)


def test_what_outgrows_the_cache() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert larger_than_cache(memory) and not larger_than_cache(memory // 4)
