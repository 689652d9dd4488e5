"""No room, and no permission: one line says so, and once there is, the next run goes on."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.end_to_end.process import Done
from tests.faults.conftest import SEED, TALLY, Nursery, again, stage_of
from tests.faults.outcome import STAGES, damaged, differing
from tests.faults.test_kills import EVENTS, WORK

ROOMS = (0, 800, 4_000, 20_000)
"""Bytes beyond which no file grows: none at all, less than a manifest has, than weights have, than a shard has."""


def complains(done: Done) -> bool:
    """Whether one line says that there is no room, and what to do."""
    said = done.complaint
    return "no room to write" in said and "free some space and run again" in said


TIMES = 30


@pytest.mark.timeout(1200)
@pytest.mark.full
def test_the_disk_is_full(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    """At random places, over and over; in between there is room again, as much as to the next such place."""
    chance, told = random.Random(SEED), Counter[str]()
    round_, ended = 0, False
    while told.total() < TIMES or not ended:
        root, log = tmp_path / f"w{round_}", tmp_path / "log"
        log.unlink(missing_ok=True)
        early = chance.random() < 0.1
        plan = {
            "root": str(root),
            "log": str(log),
            "at": (chance.randint(1, 25) if early else chance.randint(1, EVENTS)) if told.total() < TIMES else 10**9,
            "how": chance.choice(["full", "full", "crammed"]),
            "of": [] if early else WORK,
            "room": chance.choice(ROOMS),
        }
        done = nursery.run(plan, root).finish()
        told_of = f"seed {SEED}, time {told.total() + 1}, workspace {round_}, {plan}, at {stage_of(log)}"
        ended = done.code == 0
        if not ended:
            told[stage_of(log)] += 1
            TALLY.faults[f"disk {plan['how']}"] += 1
            assert done.code == 1 and complains(done), f"{told_of}:\n{done.err}"
        assert not list(root.rglob(".*.tmp")), told_of
        if (root / "artifacts").exists():
            assert damaged(root) == [], told_of
        if ended:
            assert differing(root, undisturbed) == [], told_of
            shutil.rmtree(root)
            round_ += 1


NEEDED = {
    ".": ["removals/*"],
    "artifacts": ["artifacts/sae/*/*.*"],
    **{f"artifacts/{stage}": [f"artifacts/{stage}/*/manifest.json"] for stage in STAGES},
    # Where a removal is there, nobody asks for its trials.
    "artifacts/trials": ["artifacts/trials/*/manifest.json", "artifacts/removal/*/manifest.json"],
    "runs": [],
    "runs/configs": [],
    "locks": [],
    "removals": ["removals/*"],
    "pictures": ["pictures/*"],
}
"""Folders of a workspace, and what is deleted so that there is something to write; a run itself is written down."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "place", [place if place == "artifacts/sae" else pytest.param(place, marks=pytest.mark.full) for place in NEEDED]
)
def test_a_folder_that_may_not_be_written(nursery: Nursery, copy: Path, undisturbed: Path, place: str) -> None:
    for path in [path for each in NEEDED[place] for path in copy.glob(each)]:
        path.unlink()
    folder = copy / place
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for path in folders:
        path.chmod(0o555)
    TALLY.faults["read-only folder"] += 1
    done = nursery.run({"humble": True}, copy).finish()
    for path in folders:
        path.chmod(0o755)
    said = done.err + done.out
    assert "Traceback" not in said and "ermission denied" in said and str(folder.resolve()) in said, said
    assert done.code in (1, 2), said
    assert again(copy).code == 0
    assert differing(copy, undisturbed) == [] and damaged(copy) == []
