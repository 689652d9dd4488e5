"""A Prefect server for the flows of these tests, and workspaces."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import saeuron.generation
import saeuron.scoring
import tasks.images
from storage import Workspace
from tests.end_to_end.process import start_server


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> None:
    start_server(request.config)


@pytest.fixture(scope="session")
def in_flow(server: None) -> Callable[..., Any]:
    """Call something inside a flow."""
    from prefect import flow

    @flow(name="test", validate_parameters=False)
    def test(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return call(*args)

    return lambda call, *args: test(call, args)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the images that scores and evaluations generate."""
    seen: list[str] = []

    def generate(pipe: Any, batch: Any, *rest: Any, **more: Any) -> Any:
        seen.extend(r.key for r in batch)
        return real(pipe, batch, *rest, **more)

    real = saeuron.generation.generate
    for module in (tasks.images, saeuron.scoring):
        assert module.generate is real
        monkeypatch.setattr(module, "generate", generate)
    return seen
