"""`saeuron gc` killed by force, over and over: what is referred to stays, and in the end the rest is gone."""

import random
from pathlib import Path

import pytest

from tests.faults.conftest import SEED, TALLY, Nursery, again
from tests.faults.outcome import committed, damaged, differing, files


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_killed_over_and_over(nursery: Nursery, copy: Path, undisturbed: Path, tmp_path: Path) -> None:
    # A second configuration is run, and the first one remembered again.
    assert again(copy, "--set", "train.k=9").code == 0 and again(copy).code == 0
    mine, garbage = files(undisturbed), committed(copy) - committed(undisturbed)
    # Of the copies for people, those of the last run that made them count.
    assert len(garbage) > 10
    chance, kills, log = random.Random(SEED), 0, tmp_path / "log"
    while True:
        plan = {
            "root": str(copy),
            "log": str(log),
            "at": chance.randint(1, 40),
            "how": chance.choice(["before", "after"]),
        }
        done = nursery.start(plan, "gc", "-w", copy).finish()
        now = files(copy)
        assert {name: now.get(name) for name in mine} == mine, f"seed {SEED}, kill {kills + 1}, {plan}"
        assert damaged(copy) == []
        if done.code == 0:
            break
        assert done.code == -9, done.err
        kills += 1
        TALLY.kills["gc"] += 1
    assert kills > 3
    assert committed(copy) == committed(undisturbed) and differing(copy, undisturbed) == []
    assert again(copy).code == 0 and differing(copy, undisturbed) == []
