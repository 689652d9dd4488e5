"""No permission: one line says so, and once there is, the next run goes on. test_resume.py fills the disk."""

from pathlib import Path

import pytest

from tests.faults.conftest import TALLY, Nursery, again
from tests.faults.outcome import damaged, differing


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [".", "artifacts", "artifacts/sae"])
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
