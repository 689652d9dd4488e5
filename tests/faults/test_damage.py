"""A byte flipped, the end cut off, the file gone, in every kind of file that a run leaves behind."""

import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.process import Done, run_here
from tests.faults.conftest import TALLY, again
from tests.faults.outcome import STAGES, damaged, differing, kinds
from tests.flows.upkeep.test_verify import DAMAGES, flip


def names_it(done: Done, place: Path) -> bool:
    """Whether an error names the damaged file, or its artifact, and what to do."""
    line = done.err + done.out
    named = place.as_posix() in line or any(part in line for part in place.parts if "_v" in part)
    repaired = "run it again" in line or re.search("saeuron verify( --deep)? --repair", line) is not None
    return named and repaired and "Traceback" not in line


def one(undisturbed: Path, root: Path, how: str, place: Path) -> str:
    """Damage one file; what went wrong, if anything did."""
    shutil.copytree(undisturbed, root)
    DAMAGES[how](root / place)
    TALLY.faults[f"damage {how}"] += 1
    if not any(line.endswith(f" {place}") for line in damaged(root)):
        return f"verify --deep finds {damaged(root)}"
    # Left alone, the next run mends it, or says what is wrong; a flipped byte in what nobody reads stays as it is.
    done = again(root)
    if done.code == 0:
        others = [name for name in differing(root, undisturbed) if how != "flip" or name != place.as_posix()]
        if others:
            return f"a run over it ended with other {others}"
    elif not names_it(done, place):
        return f"a run over it says {done.err[-300:]}{done.out[-300:]}"
    told = run_here("verify", "--deep", "--repair", "-w", root)
    if told.code not in (0, 1):
        return f"verify --repair says {told.err}"
    if damaged(root):
        return f"after --repair there is {damaged(root)}"
    done = again(root)
    if done.code != 0 or differing(root, undisturbed) or damaged(root):
        return (
            f"after --repair a run ends with {done.code}, {differing(root, undisturbed)}, {damaged(root)}: {done.err}"
        )
    return ""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("step", [pytest.param(40, id="few"), pytest.param(1, id="every-kind", marks=pytest.mark.full)])
def test_damage_is_found_and_mended(undisturbed: Path, tmp_path: Path, how: str, step: int) -> None:
    first = list(DAMAGES).index(how) * 9 + 15 if step > 1 else 0
    wrong = {}
    for kind, place in list(kinds(undisturbed).items())[first::step]:
        root = tmp_path / "w"
        if found := one(undisturbed, root, how, place):
            wrong[kind] = found
        shutil.rmtree(root)
    assert wrong == {}


READ = {
    "prompts": ["prompts.parquet"],
    "capture": ["*/00000.tar", "*/00001.tar.json"],
    "sae": ["sae.safetensors", "cfg.json"],
    "score": ["*/statistics.parquet", "*/cells.parquet", "*/by_latent.parquet"],
    "totals": ["totals.parquet", "cells.parquet"],
    "trials": ["000.safetensors", "000.tar", "unedited.tar"],
    "removal": ["removal.safetensors"],
    "images": ["00000.tar", "00000.tar.json", "images.parquet"],
    "judgements": ["judgements.parquet"],
    "evaluation": ["metrics.parquet"],
}
"""What later stages read of what each stage makes."""


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage, files in READ.items() for file in files])
def test_nothing_is_made_of_a_flipped_byte(copy: Path, undisturbed: Path, stage: str, file: str) -> None:
    place = min((copy / "artifacts" / stage).glob(f"*/{file}"))
    flip(place)
    TALLY.faults["flip before reading"] += 1
    for later in STAGES[STAGES.index(stage) + 1 :]:
        shutil.rmtree(copy / "artifacts" / later)
    name = place.relative_to(copy)
    done = again(copy)
    # It is read, and seen; or it is not read, and all else is as it should be.
    if done.code == 0:
        assert [n for n in differing(copy, undisturbed) if n != name.as_posix()] == []
    else:
        assert names_it(done, name), done.err + done.out
    run_here("verify", "--deep", "--repair", "-w", copy)
    done = again(copy)
    assert done.code == 0 and differing(copy, undisturbed) == [] and damaged(copy) == [], done.err
