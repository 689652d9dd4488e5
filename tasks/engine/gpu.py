"""Runs that share a GPU take turns, by Prefect's global concurrency limit "gpu"."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

LIMIT = "gpu"


@contextmanager
def gpu(device: str) -> Iterator[None]:
    """Hold one slot of the limit while a step works on `device`, if that is a GPU.

    Where there is no such limit nothing waits, nor where there is no server: a run's own has no other run to wait for.
    A tag on the task would do the same, at six times the cost of a step, and what is limited by tag is never cached.
    """
    if not device.startswith("cuda"):
        yield
        return
    from prefect.concurrency.sync import concurrency

    from tasks.engine.page import watched

    with concurrency(LIMIT, occupy=1) if watched() else nullcontext():
        yield
