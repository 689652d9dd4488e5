"""A run that finds everything in place: it is a run like any other, and starts no Prefect."""

import json
import shutil
from pathlib import Path

import pytest

from flows import server
from flows.config import load
from flows.walk import finds_everything
from storage import Workspace
from tasks.registry import runs
from tests.end_to_end.process import TINY, run_here
from tests.flows.test_plan import made_up, plan


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("walk") / "w"
    config = load(str(TINY))
    runs.remember(made_up(root, config, ("file", "removal.safetensors", "sheet.png", "scores.png")), config)
    return root


@pytest.fixture
def whole(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


def test_everything_is_in_place_until_one_artifact_is_gone(whole: Workspace) -> None:
    config = load(str(TINY))
    assert finds_everything(config, whole, None, "cpu")
    # Without its trials a removal is still whole.
    for name in sorted(name for name in used(whole) if not name.startswith("trials")):
        gone = whole.folder(name).rename(whole.root / "aside")
        assert not finds_everything(config, whole, None, "cpu"), name
        gone.rename(whole.folder(name))
    assert finds_everything(config, whole, None, "cpu")


def test_another_setting_has_to_be_made(whole: Workspace) -> None:
    assert not finds_everything(load(str(TINY), ["evaluate.seeds=2"]), whole, None, "cpu")


def test_a_damaged_file_has_to_be_made(whole: Workspace) -> None:
    file = next((whole.root / "artifacts" / "score").glob("*/file"))
    file.write_bytes(file.read_bytes()[:-1])
    assert not finds_everything(load(str(TINY)), whole, None, "cpu")


def used(workspace: Workspace) -> set[str]:
    """What a run needs, by the plan; a workspace that is made up holds more."""
    planned = plan(load(str(TINY)), workspace.root)
    assert all(p.cached for p in planned)
    return {p.id for p in planned}


class Started(Exception):
    pass


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Started

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "start", refuse)
    monkeypatch.setattr(server, "reachable", refuse)


@pytest.mark.usefixtures("no_server")
class TestRun:
    def test_it_is_noted_as_a_run_and_what_people_look_at_is_put_there(self, whole: Workspace) -> None:
        done = run_here("run", TINY, "-w", whole.root, "--threads", "1", "--json")
        assert done.code == 0, done.err
        result = json.loads(done.out)
        assert result["counts"] == {"made": 0, "cached": len(used(whole)), "failed": 0}
        [noted] = runs.records(whole)
        assert (noted.run_id, noted.flow, noted.state) == (result["run_id"], "pipeline", "completed")
        assert noted.artifacts == dict.fromkeys(sorted(used(whole)), True)
        copies = [*whole.removals.iterdir(), *whole.pictures.iterdir()]
        assert len(copies) == 6 and all(path.read_bytes() == bytes(1000) for path in copies)
        assert noted.finished is not None and whole.alive() == []

    def test_what_is_missing_needs_prefect(self, whole: Workspace) -> None:
        shutil.rmtree(next((whole.root / "artifacts" / "score").glob("*")))  # Each is used.
        with pytest.raises(Started):
            run_here("run", TINY, "-w", whole.root, "--threads", "1")
        assert runs.records(whole) == []

    def test_a_new_workspace_needs_prefect(self, tmp_path: Path) -> None:
        with pytest.raises(Started):
            run_here("run", TINY, "-w", tmp_path / "new", "--threads", "1")
