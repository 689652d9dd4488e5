"""A clock that is set back, between runs and within one: nothing is made again or lost, and runs keep their order."""

from pathlib import Path

import pytest

from storage.query import run_query
from tests.end_to_end.process import run_here
from tests.faults.conftest import TALLY, Nursery
from tests.faults.outcome import damaged, differing

HOURS = 3600.0


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_clock_is_set_back(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    root, log = tmp_path / "w", tmp_path / "log"
    plans: list[dict[str, object]] = [
        {"root": str(root), "log": str(log), "at": 250, "how": "before"},
        {"back": 30 * HOURS, "calls": 8},
        {"back": 5 * HOURS, "calls": 0},
        {"back": 50 * HOURS, "calls": 3},
        {},
    ]
    codes = [nursery.run(plan, root).finish().code for plan in plans]
    TALLY.faults["clock set back"] += 3
    assert codes == [-9, 0, 0, 0, 0]
    rows = run_query(
        root,
        "select number, state, made, started > now()::timestamp - interval 1 hour as recent from runs order by number",
    )
    assert rows.column("number").to_pylist() == [1, 2, 3, 4, 5]
    assert rows.column("state").to_pylist() == ["running", *4 * ["completed"]]
    assert rows.column("made").to_pylist()[2:] == [0, 0, 0]
    # The clock was indeed set back.
    assert rows.column("recent").to_pylist()[2:] == [False, True, True] or False in rows.column("recent").to_pylist()
    assert differing(root, undisturbed) == [] and damaged(root) == []
    done = run_here("gc", "--dry-run", "-w", root)
    assert done.code == 0 and done.out.startswith("0 would be deleted"), done.out
