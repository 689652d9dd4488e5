"""A concept that no classifier was trained for, judged by words alone: from a suggested file to figures."""

import json
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.process import ids, rows, run_here
from tests.tiny_clip import save_tiny_clip

pytestmark = pytest.mark.timeout(600)


def test_a_concept_of_ones_own_is_removed_and_judged_by_clip(
    server: None, workspace: Path, workspaces: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(workspace, workspaces / "own"))
    before, clip = ids(mine), save_tiny_clip(tmp_path / "clip")
    file = tmp_path / "hot air balloon.yaml"
    new = ("concept", "new", "hot air balloon", "--domain", "object", "--also", "aerostat", "--judge", f"clip:{clip}")
    done = run_here(*new, "--out", file, "-w", mine)
    assert done.code == 0 and done.out.splitlines()[-1] == f"next: saeuron concept add '{file}' -w {mine}"
    again = run_here(*new, "--out", file, "-w", mine)
    assert again.code == 2 and "is there already; give another --out, or edit it" in again.err

    done = run_here("concept", "add", file, "-w", mine)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert f"judge of object, clip:{clip}: right on " in said
    # A random CLIP knows nothing, and that is said before it judges anything.
    assert said.index("warning: the judge of object is right on") < said.index("removal hot air balloon by saeuron")
    made = {i.split("_v")[0] for i in ids(mine) - before}
    assert "capture" not in made and "sae" not in made

    texts = {r["text"] for r in rows(mine, "select text from prompts where concepts['object'] = 'hot air balloon'")}
    assert "A photo of a hot air balloon." in texts and "A photo of an aerostat." in texts
    metrics = rows(mine, "select * from metrics where concept = 'hot air balloon'")
    judges = {r["metric"]: (str(r["judge"]), str(r["judge_id"])) for r in metrics}
    assert judges["UA"][0] == f"clip:{clip}" and judges["UA"][1].startswith("clip-")
    assert judges["CRA"][0] == "canvas20" and all(r["value"] is not None for r in metrics)
    labels = {r["label"] for r in rows(mine, f"select distinct label from judgements where judge = 'clip:{clip}'")}
    assert labels <= {"hot air balloon", "cat", "moon", "star", "none of these"}
    quality = {str(r["metric"]): r for r in rows(mine, "select * from quality where concept = 'hot air balloon'")}
    assert quality.keys() == {"Frechet distance", "CLIP score", "out of the ordinary"}
    assert str(quality["Frechet distance"]["extractor"]).startswith("image embedding of clip-")
    # The others keep their judge, and what they are is not touched.
    assert {r["judge"] for r in rows(mine, "select judge from metrics where concept = 'cat'")} == {"canvas20"}

    table = json.loads(run_here("unlearncanvas", "--json", "-w", mine).out)
    own = [r for r in table if r["method"].startswith("yours")]
    assert {(r["domain"], r["of"]) for r in own} == {("style", "1 of 50 concepts"), ("object", "2 of 20 concepts")}
    assert {r["method"] for r in table} > {"SAeUron", "SAEmnesia"}
