"""A workspace of an older format: read by nobody, brought to this one by who writes, wherever that is cut short."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.catalog.query import run_query
from storage.errors import StorageError, WorkspaceBusy, WorkspaceTooOld
from storage.files import read_json, write_json
from storage.identity import artifact_id, digest
from storage.migrations import MIGRATIONS
from storage.seals import read_sealed, write_sealed
from storage.workspace import FORMAT, Workspace
from tests.end_to_end.process import run_here

CONFIG = {"k": 8}
SCORE = artifact_id("score", 1, CONFIG)
RUN = {
    "flow": "pipeline",
    "state": "completed",
    "finished": "2026-01-02T10:00:00+00:00",
    "made": 1,
    "cached": 0,
    "failed": 0,
    "message": "",
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """As format 1 was at first: nothing has a seal, and runs have no number; the last two are from its last days."""
    root = tmp_path / "w"
    folder = root / "artifacts" / "score" / SCORE
    folder.mkdir(parents=True)
    (folder / "cells.parquet").write_bytes(b"cells")
    manifest = {
        "id": SCORE,
        "stage": "score",
        "version": 1,
        "config": CONFIG,
        "inputs": {},
        "summary": {"concept": "cat"},
        "created": "2026-01-02T09:00:00.000+00:00",
        "seconds": 1.5,
        "files": [{"name": "cells.parquet", "bytes": 5, "sha256": digest(b"cells")}],
    }
    write_json(folder / "manifest.json", manifest)
    write_json(root / "records" / SCORE, {"metadata": {}, "result": "{}"})
    write_json(root / "concepts" / "0000.json", {"name": "grain", "domain": "style"})
    write_json(root / "run.json", {"seed": 0})
    for name, hour in (("b", 12), ("a", 11)):
        run = {"run_id": name, "started": f"2026-01-02T{hour}:00:00+00:00", **RUN}
        write_json(root / "runs" / f"{name}.json", run)
        write_json(root / "runs" / "configs" / f"{name}.json", {"of": name})
    for name, number, hour in (("c", 1, 9), ("d", 2, 8)):
        # By the clock, which was set back, these began before the others.
        run = {"run_id": name, "number": number, "started": f"2026-01-02T0{hour}:00:00Z", **RUN}
        write_sealed(root / "runs" / f"{name}.json", {**run, "config": "0" * 64})
    (root / "runs" / "e.json").write_text('{"run_id": "e"')
    write_json(root / "workspace.json", {"format": 1})
    return root


def state(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and "locks" not in p.parts)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def test_there_is_a_way_from_every_format_to_this_one() -> None:
    assert set(MIGRATIONS) == set(range(1, FORMAT))


def test_a_reader_is_told_the_command_and_changes_nothing(old: Path, tmp_path: Path) -> None:
    before = state(old)
    with pytest.raises(WorkspaceTooOld, match=r"has format 1, expected 2: .* saeuron verify --repair -w"):
        Workspace.open(old, create=False)
    for words in (["sql", "select 1"], ["status"], ["verify", "--deep"], ["gc"], ["run", "--plan"]):
        done = run_here(*words, "-w", old)
        assert done.code == 2 and f"saeuron verify --repair -w {old}" in done.complaint
    assert state(old) == before


def test_a_writer_brings_it_to_this_one(old: Path) -> None:
    workspace = Workspace.open(old)
    assert read_json(old / "workspace.json") == {"format": 2}
    assert workspace.manifest(SCORE).summary == {"concept": "cat"}
    runs = {name: read_sealed(old / "runs" / f"{name}.json") for name in "abcd"}
    # The oldest of all are those that were not counted.
    assert [runs[name]["number"] for name in "abcd"] == [1, 2, 3, 4]
    assert runs["a"]["config"] == digest(old / "runs" / "configs" / "a.json") and runs["c"]["config"] == "0" * 64
    assert run_query(workspace, "select run_id from runs order by number").column(0).to_pylist() == ["a", "b", "c", "d"]
    assert read_sealed(old / "concepts" / "0000.json") == {"name": "grain", "domain": "style"}
    assert read_sealed(old / "records" / SCORE) == {"metadata": {}, "result": "{}"}
    assert (old / "runs" / "remembered.sha256").read_text() == digest(old / "run.json")
    # What is damaged stays so.
    assert (old / "runs" / "e.json").read_text() == '{"run_id": "e"'
    after = state(old)
    Workspace.open(old)
    assert state(old) == after


def test_a_byte_that_is_flipped_already_is_not_vouched_for(old: Path) -> None:
    path = old / "runs" / "c.json"
    path.write_text(path.read_text().replace('"number": 1', '"number": 7'))
    Workspace.open(old)
    with pytest.raises(StorageError, match=r"c\.json is damaged"):
        read_sealed(path)


def test_repair_brings_it_to_this_one(old: Path) -> None:
    (old / "runs" / "e.json").unlink()
    run_here("verify", "--repair", "-w", old)
    assert read_json(old / "workspace.json") == {"format": 2}


class Killed(BaseException):
    """In place of SIGKILL, which no `except` sees either."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_cut_short_anywhere_it_goes_on(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    whole = Path(shutil.copytree(old, tmp_path / "whole"))
    Workspace.open(whole)
    replace: Callable[..., Any] = Path.replace
    left = 0

    def cut(path: Path, to: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            raise Killed
        made: Path = replace(path, to)
        if left == 0:
            raise Killed
        return made

    monkeypatch.setattr(Path, "replace", cut)
    cuts, ended = 0, False
    while not ended:
        root = Path(shutil.copytree(old, tmp_path / f"cut{cuts}"))
        cuts += 1
        left = cuts
        try:
            Workspace.open(root)
            ended = True
        except Killed:
            # The number of the format is the last that is written.
            assert json.loads((root / "workspace.json").read_text())["format"] == 1 or state(root) == state(whole)
            left = 0
            Workspace.open(root)
        assert state(root) == state(whole), cuts
    assert cuts > 8


def test_while_somebody_is_at_work_it_is_left_alone(old: Path) -> None:
    before = state(old)
    with Workspace(old).lock("run"), pytest.raises(WorkspaceBusy, match="another process is at work in it"):
        Workspace.open(old)
    assert state(old) == before
    assert Workspace.open(old).root == old
