"""A clock that is set back, between runs and within one: nothing is made again or lost, and runs keep their order."""

import json
from pathlib import Path

import pytest

from storage.catalog.query import run_query
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
        {"back": 50 * HOURS, "calls": 1},
        {},
    ]
    codes = [nursery.run(plan, root).finish().code for plan in plans]
    TALLY.faults["clock set back"] += 3
    assert codes == [-9, 0, 0, 0, 0]
    rows = run_query(root, "select number, state, made, started, finished from runs order by number").to_pylist()
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["state"] for row in rows] == ["interrupted", *4 * ["completed"]]
    assert [row["made"] for row in rows[2:]] == [0, 0, 0]
    # The clock was indeed set back, before one began and while another ran.
    assert rows[2]["started"] < rows[0]["started"] and rows[3]["finished"] < rows[3]["started"]
    assert differing(root, undisturbed) == [] and damaged(root) == []
    # Nothing seems forgotten but the lock of the run that was killed.
    done = run_here("gc", "--dry-run", "--json", "-w", root)
    assert done.code == 0 and [g["kind"] for g in json.loads(done.out)] == ["lock"], done.out
