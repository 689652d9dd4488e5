"""How torch's OpenMP threads wait and the C library keeps memory, set before torch is imported."""

import ctypes
import logging
import os
import sys

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables with which a user sets how OpenMP's threads wait."""
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Environment variables with which a user sets what glibc gives back."""
KEPT = 2**30
"""Bytes of freed memory that a process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has set one of `CHOICES`.

    By default they spin, and on a busy machine a spinning thread takes the core from the thread that it waits for: 12
    steps of canvas took 38 to 52 s beside two busy loops, and 2.4 s with sleeping threads. On an idle machine sleeping
    costs 18 %. A bounded spin (GOMP_SPINCOUNT=30000) costs 7 % there, but took more than 100 s on a busier machine.
    Results are the same bits. The OpenMP library reads the variable once, when torch is imported.
    """
    if any(name in os.environ for name in CHOICES):
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # For this process's children, too.
    if "torch" in sys.modules:
        logging.getLogger(__name__).warning(
            "torch was imported before saeuron, so its threads spin while they wait, which is slow on a busy machine; "
            "import saeuron first, or set OMP_WAIT_POLICY=PASSIVE"
        )


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, unless the user has set one of `ALLOCATOR`; other C libraries are left as they are.

    By default glibc gives a large tensor's memory back when it is freed, and the kernel clears the same pages for the
    next one: of the processor time for images of canvas that was a tenth, and two fifths in a worker of Dask, which
    asks for it (docs/log.md).
    """
    if os.name != "posix" or any(name in os.environ for name in ALLOCATOR):
        return
    if (set_option := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        set_option(_TRIM_THRESHOLD, KEPT)
        set_option(_MMAP_THRESHOLD, KEPT)
