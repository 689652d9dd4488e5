"""Workspaces that the real command line made, once for all tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.process import LARGE, Cli, Done, start_server


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspaces")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def first(cli: Cli, workspaces: Path) -> Done:
    """The run that everything else looks at. Tests that change its workspace come after those that compare it."""
    return cli.run(workspaces / "first", *LARGE)


@pytest.fixture(scope="session")
def workspace(first: Done, workspaces: Path) -> Path:
    """The workspace of `first`, as it left it: leave it as you found it, or take `changed`."""
    assert first.code == 0, first.err + first.out
    return workspaces / "first"


@pytest.fixture(scope="session")
def changed(workspace: Path, workspaces: Path) -> Path:
    """A copy that tests may add to; it stays usable."""
    return Path(shutil.copytree(workspace, workspaces / "changed"))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Path:
    """The folder of a Prefect server that runs."""
    return start_server(request.config)
