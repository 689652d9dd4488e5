"""Workspaces that the real command line made, once for all tests."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.end_to_end.process import LARGE, Cli, Done, start_server
from tests.end_to_end.sharing import once


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspaces")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def original(request: pytest.FixtureRequest) -> Path:
    """Where the run of `first` was made, `workspace`, and its home, `home`: other processes look at it as well."""

    def make(folder: Path) -> None:
        (folder / "home").mkdir()
        done = Cli(folder / "home").run(folder / "workspace", *LARGE)
        (folder / "done.json").write_text(json.dumps(asdict(done)))

    return once(request.config, "first", make)


@pytest.fixture(scope="session")
def first(original: Path) -> Done:
    """The run that everything else looks at."""
    return Done(**json.loads((original / "done.json").read_text()))


@pytest.fixture(scope="session")
def workspace(first: Done, original: Path, workspaces: Path) -> Path:
    """The workspace of `first`, as it left it: leave it as you found it, or take `changed`."""
    assert first.code == 0, first.err + first.out
    return Path(shutil.copytree(original / "workspace", workspaces / "first"))


@pytest.fixture(scope="session")
def changed(workspace: Path, workspaces: Path) -> Path:
    """A copy that tests may add to; it stays usable."""
    return Path(shutil.copytree(workspace, workspaces / "changed"))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Path:
    """The folder of a Prefect server that runs."""
    return start_server(request.config)
