"""SIGKILL anywhere, over and over: each run goes on from where the last one died, and the end is the same."""

import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.process import Done
from tests.faults.conftest import SEED, TALLY, Nursery, stage_of
from tests.faults.outcome import STAGES, damaged, differing

EVENTS = 70
"""Most file events that a run lives through; an undisturbed one has some 700."""
WORK = ("artifacts", "removals", "pictures")
"""Where what a run makes goes. That it begins, with locks and a record of itself, is a few events of every run."""


@dataclass
class Fault:
    """When a run is to be killed: at an event, or some seconds after its first, or after its start."""

    at: int = 0
    how: str = ""
    of: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def drawn(cls, chance: random.Random, last: str) -> "Fault":
        """By chance; `last` is the stage at which the workspace's last run was killed."""
        how = chance.choices(["before", "after", "torn", "begun", "started"], [4, 4, 4, 2, 1])[0]
        if how == "begun":
            return cls(how=how, seconds=chance.uniform(0, 6))
        if how == "started":
            return cls(how=how, seconds=chance.uniform(0, 12))
        if chance.random() < 0.1:
            return cls(how=how, at=chance.randint(1, 25))
        if chance.random() < 0.5:
            # Most events are those of capture. So that each stage has its share: in this one, or in one that follows.
            first = STAGES.index(last)
            stage = chance.choice(STAGES[first : first + 3])
            return cls(how=how, at=chance.randint(1, 15), of=(f"artifacts/{stage}",))
        return cls(how=how, at=chance.randint(1, EVENTS), of=WORK)


def killed(nursery: Nursery, root: Path, log: Path, fault: Fault) -> Done:
    """A run with that fault; it may come to its end before."""
    log.unlink(missing_ok=True)
    plan: dict[str, Any] = {"root": str(root), "log": str(log)}
    if fault.at:
        plan |= {"at": fault.at, "how": fault.how, "of": fault.of}
    life = nursery.run(plan, root)
    if not fault.at:
        while fault.how == "begun" and life.ended() is None and not log.exists():
            time.sleep(0.05)
        end = time.monotonic() + fault.seconds
        while life.ended() is None and time.monotonic() < end:
            time.sleep(0.05)
        life.kill()
    return life.finish()


KILLS = 100


@pytest.mark.timeout(3600)
@pytest.mark.full
def test_killed_over_and_over(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    chance, told = random.Random(SEED), Counter[str]()
    round_, ended, last = 0, False, STAGES[0]
    while told.total() < KILLS or not ended:
        root = tmp_path / f"w{round_}"
        fault = Fault.drawn(chance, last) if told.total() < KILLS else Fault(at=10**9)
        done = killed(nursery, root, tmp_path / "log", fault)
        where = stage_of(tmp_path / "log")
        told_of = f"seed {SEED}, kill {told.total() + 1}, workspace {round_}, {fault}, at {where}"
        ended = done.code == 0
        assert done.code in (0, -signal.SIGKILL), f"{told_of}:\n{done.err}"
        if not ended:
            stage = where.removeprefix("record of ")
            last = stage if stage in STAGES else last
            told[where] += 1
            TALLY.kills[where] += 1
            TALLY.faults[f"kill {fault.how}"] += 1
        # To be killed damages nothing, and nobody has to repair anything.
        if (root / "artifacts").exists():
            assert damaged(root) == [], told_of
        if ended:
            last = STAGES[0]
            assert differing(root, undisturbed) == [], told_of
            assert not list(root.rglob(".*.tmp")), told_of
            shutil.rmtree(root)
            round_ += 1
    assert set(STAGES) <= set(told), told
