"""Two runs at once on one workspace do the work once, whether both live or one is killed."""

import time
from pathlib import Path

import pytest

from storage.catalog.query import run_query
from tests.faults.conftest import TALLY, Nursery, again
from tests.faults.outcome import damaged, differing


def made(root: Path) -> list[int]:
    rows = run_query(root, "select made from runs where state = 'completed' order by number")
    return list(rows.column(0).to_pylist())


@pytest.mark.full
@pytest.mark.timeout(600)
def test_both_come_to_their_end(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    both = [nursery.run({}, root) for _ in range(2)]
    TALLY.faults["two at once"] += 1
    assert [life.finish().code for life in both] == [0, 0]
    assert differing(root, undisturbed) == [] and damaged(root) == []
    # Each step was made by one of them, and found by the other.
    assert sum(made(root)) == sum(made(undisturbed)[:1]) and min(made(root)) > 0


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["capture", "sae", "score", "removal", "images"])
def test_one_is_killed_and_the_other_goes_on(nursery: Nursery, undisturbed: Path, tmp_path: Path, stage: str) -> None:
    root = tmp_path / "w"
    first = nursery.run({}, root)
    second = nursery.run({}, root)
    TALLY.faults["two at once, one killed"] += 1
    while not list((root / "artifacts" / stage).glob("*")) and first.ended() is None:
        time.sleep(0.01)
    first.kill()
    TALLY.kills[stage] += 1
    assert first.finish().code != 0
    assert second.finish().code == 0
    # What the dead one was in the middle of writing is swept up when the next one starts.
    assert again(root).code == 0
    assert differing(root, undisturbed) == [] and damaged(root) == []
