"""The command line with packs from three concepts on: of eight the tiny pipeline has not enough."""

import contextlib
from collections.abc import Iterator

import pytest

from storage.statistics import packs

MODULE = "tests.faults.packed"


@contextlib.contextmanager
def packed() -> Iterator[None]:
    """So in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "LOOSE", 3)
        yield


if __name__ == "__main__":
    from flows.cli import main

    with packed():
        main()
