"""Turns on a shared GPU, by Prefect's global concurrency limit `gpu`."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

LIMIT = "gpu"


@contextmanager
def gpu(device: str) -> Iterator[None]:
    """Hold one slot of the limit during the `with` block if `device` is a GPU.

    Does nothing if the server has no such limit, or if the run started the server for itself, because then there is no
    other run. Prefect's limits by task tag would cost six times as much per step, and prevent caching.
    """
    if not device.startswith("cuda"):
        yield
        return
    from prefect.concurrency.sync import concurrency

    from tasks.engine.page import watched

    with concurrency(LIMIT, occupy=1) if watched() else nullcontext():
        yield
