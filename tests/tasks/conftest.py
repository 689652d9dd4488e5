"""A Prefect server for the flows of these tests, and workspaces."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import Workspace


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """One for the session: it takes seconds to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")
