"""No room, and no permission: one line says so, and once there is, the next run goes on."""

import random
from pathlib import Path

import pytest

from tests.faults.conftest import SEED, TALLY, Nursery, again
from tests.faults.outcome import damaged, differing


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_no_file_grows_beyond_a_limit(nursery: Nursery, undisturbed: Path, tmp_path: Path) -> None:
    """Every write that needs more fails, as on a full disk; the limit is raised until a run comes to its end."""
    chance, root, limit, complaints = random.Random(SEED), tmp_path / "w", 3_000, set()
    while True:
        done = nursery.run({"file_limit": limit}, root).finish()
        TALLY.faults["full disk"] += 1
        assert damaged(root) == [], limit
        if done.code == 0:
            break
        assert done.code == 1 and "no room to write" in done.complaint, done.err
        assert "free some space and run again" in done.complaint
        assert not list(root.rglob(".*.tmp"))
        complaints.add(done.complaint)
        limit = int(limit * chance.uniform(1.2, 2.2))
    assert len(complaints) > 3
    assert differing(root, undisturbed) == []


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [".", "artifacts", "artifacts/sae", "records", "runs", "locks", "removals"])
def test_a_folder_that_may_not_be_written(nursery: Nursery, copy: Path, undisturbed: Path, place: str) -> None:
    # Something is missing, so that there is something to write.
    for path in [*(copy / "removals").iterdir(), *(copy / "artifacts").glob("sae/*/*.*")]:
        path.unlink()
    folder = copy / place
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        path.chmod(0o555)
    TALLY.faults["read-only folder"] += 1
    done = nursery.run({"humble": True}, copy).finish()
    assert done.code in (1, 2), done.err
    said = done.err + done.out
    assert "Traceback" not in said and "ermission denied" in said and str(folder.resolve()) in said, said
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        path.chmod(0o755)
    assert again(copy).code == 0
    assert differing(copy, undisturbed) == [] and damaged(copy) == []
