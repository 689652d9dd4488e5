"""A Prefect server for the flows of these tests, and workspaces."""

from pathlib import Path

import pytest

from storage import Workspace
from tests.end_to_end.process import start_server


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> None:
    start_server(request.config)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")
