"""A workspace of an older format: read by nobody, migrated by whoever writes, wherever that is cut short."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage import migrations
from storage.errors import OtherFormat
from storage.files import read_json, write_json
from storage.migrations import MIGRATIONS
from storage.workspace import FORMAT, Workspace
from tests.end_to_end.process import run_here


def mark_notes(root: Path) -> None:
    """A migration for these tests: every note gets a kind."""
    for path in sorted((root / "concepts").glob("*.json")):
        note = read_json(path)
        if "kind" not in note:
            write_json(path, {**note, "kind": "note"})


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the format before this one, and the migration from it."""
    monkeypatch.setitem(MIGRATIONS, FORMAT - 1, mark_notes)
    root = Workspace.open(tmp_path / "w").root
    for i in range(4):
        write_json(root / "concepts" / f"{i}.json", {"n": i})
    write_json(root / "workspace.json", {"format": FORMAT - 1})
    return root


def state(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and "locks" not in p.parts)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def test_migrations_lead_to_this_format_without_a_gap() -> None:
    assert sorted(MIGRATIONS) == list(range(FORMAT - len(MIGRATIONS), FORMAT))


@pytest.mark.parametrize("words", [["sql", "select 1"], ["status"], ["verify", "--repair"], ["gc"], ["run"]])
def test_a_format_that_nothing_migrates_is_refused(tmp_path: Path, words: list[str]) -> None:
    root = Workspace.open(tmp_path / "w").root
    write_json(root / "workspace.json", {"format": 2})
    before = state(root)
    done = run_here(*words, "-w", root)
    said = (
        f"workspace {root} has format 2, expected {FORMAT}, and cannot be converted: use another workspace, or delete"
    )
    assert done.code == 2 and done.complaint == f"saeuron: {said} this one"
    assert state(root) == before
    for create in (False, True):
        with pytest.raises(OtherFormat, match="cannot be converted"):
            Workspace.open(root, create=create)


def test_a_reader_is_told_the_command_and_changes_nothing(old: Path) -> None:
    before = state(old)
    with pytest.raises(OtherFormat, match=rf"has format {FORMAT - 1}, expected {FORMAT}: .* verify --repair -w"):
        Workspace.open(old, create=False)
    for words in (["sql", "select 1"], ["status"], ["verify", "--deep"], ["gc"], ["run", "--plan"]):
        done = run_here(*words, "-w", old)
        assert done.code == 2 and f"saeuron verify --repair -w {old}" in done.complaint
    assert state(old) == before


def test_a_writer_migrates_it(old: Path) -> None:
    Workspace.open(old)
    assert read_json(old / "workspace.json") == {"format": FORMAT}
    notes = [read_json(path) for path in sorted((old / "concepts").glob("*.json"))]
    assert notes == [{"n": i, "kind": "note"} for i in range(4)]
    after = state(old)
    Workspace.open(old)
    assert state(old) == after


def test_several_migrations_follow_one_another(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIGRATIONS, FORMAT - 2, lambda root: write_json(root / "concepts" / "4.json", {"n": 4}))
    write_json(old / "workspace.json", {"format": FORMAT - 2})
    Workspace.open(old)
    assert read_json(old / "concepts" / "4.json") == {"n": 4, "kind": "note"}


def test_verify_repair_migrates_it(old: Path) -> None:
    shutil.rmtree(old / "concepts")
    assert run_here("verify", "--repair", "-w", old).code == 0
    assert read_json(old / "workspace.json") == {"format": FORMAT}


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
            assert json.loads((root / "workspace.json").read_text())["format"] < FORMAT or state(root) == state(whole)
            left = 0
            Workspace.open(root)
        assert state(root) == state(whole), cuts
    # Four notes and the mark.
    assert cuts == 6


def test_while_somebody_is_at_work_it_is_left_alone(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", 0.1)
    before = state(old)
    with Workspace(old).lock("run"), pytest.raises(OtherFormat, match="another process is at work in it: wait until"):
        Workspace.open(old)
    assert state(old) == before
    assert Workspace.open(old).root == old


def test_a_process_that_ends_soon_is_waited_for(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", 60.0)
    holds, ends = threading.Event(), threading.Event()

    def work() -> None:
        with Workspace(old).lock("run"):
            holds.set()
            ends.wait(60)

    asked = migrations.held
    # The other process ends after it was seen at work.
    monkeypatch.setattr(migrations, "held", lambda *paths: asked(*paths) and not ends.set())
    other = threading.Thread(target=work)
    other.start()
    holds.wait(60)
    Workspace.open(old)
    other.join()
    assert ends.is_set() and read_json(old / "workspace.json") == {"format": FORMAT}
