"""A concept that no classifier was trained for, judged by words alone: from a suggested file to figures."""

import json
import shutil
from pathlib import Path

import pytest

from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.methods.removal import Removal
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import identity, load_pipeline
from saeuron.prompts import Prompt
from tests.end_to_end.process import ids, rows, run_here
from tests.saeuron.pipelines import tiny
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_on_a_pipeline_that_is_no_stable_diffusion(server: Path, tmp_path: Path) -> None:
    """PixArt-Sigma, a transformer with T5; its weights are random, so the figures say nothing."""
    model, path, mine = tiny.save("pixart-sigma", tmp_path / "model"), tiny.HOOKPOINT["pixart-sigma"], tmp_path / "w"
    clip = save_tiny_clip(tmp_path / "clip")
    config = {
        "model": {"spec": str(model), "steps": 2, "guidance": 3.0, "micro_batch": 8, "size": [16, 16]},
        "domains": {
            "object": {
                "concepts": ["cat", "moon"], "hookpoints": [path], "judge": f"clip:{clip}", "score_on": "plain",
            }
        },
        "prompts": {
            "templates": {"train": ["A {object}."], "validation": ["The {object}."], "test": ["An image of {object}."]}
        },
        "train": {"steps": 5, "k": 4, "expansion": 2, "batch": 64, "inference": "threshold"},
        "score": {"images": 2},
        "tune": {
            "concepts": ["cat"], "settings": {"saeuron": {"n": [8], "gamma": [-30.0]}}, "target_images": 2,
            "retained_images": 2,
        },
        "evaluate": {"seeds": 1},
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(json.dumps(config))
    done = run_here("run", tmp_path / "my.yaml", "-w", mine, "--threads", "1")
    assert done.code == 0, done.err + done.out
    before, file = ids(mine), tmp_path / "zebra.yaml"

    new = ("concept", "new", "zebra", "--domain", "object", "--judge", f"clip:{clip}", "--out", file, "-w", mine)
    assert run_here(*new).code == 0
    done = run_here("concept", "add", file, "-w", mine, "--threads", "1")
    assert done.code == 0, done.err
    assert f"judge of object, clip:{clip}: right on " in " ".join(done.err.split())
    assert not {i.split("_v")[0] for i in ids(mine) - before} & {"capture", "sae"}

    # All figures are there, by the words of the concept alone; UA is the share of its images that show another.
    metrics = {str(r["metric"]): r for r in rows(mine, "select * from metrics where concept = 'zebra'")}
    assert metrics.keys() >= {"UA", "IRA"}
    for name in ("UA", "IRA"):
        assert metrics[name]["judge"] == f"clip:{clip}" and 0 <= float(str(metrics[name]["value"])) <= 1
    (counted,) = rows(
        mine,
        "select avg((j.label <> 'zebra')::int) as ua, count(*) as n from judgements j join images i "
        "using (image_set_id, key) where j.asked = 'zebra' and i.split = 'test' and len(i.removals) > 0",
    )
    assert int(str(counted["n"])) > 0 and counted["ua"] == pytest.approx(metrics["UA"]["value"])
    labels = {r["label"] for r in rows(mine, "select distinct label from judgements where asked = 'zebra'")}
    assert labels and labels <= {"zebra", "cat", "moon", "none of these"}

    # The removal is of this model and module, and changes what is drawn.
    removal = Removal.load(mine / "removals" / "zebra.saeuron.safetensors")
    assert [e.hookpoint for e in removal.edits] == [path] and removal.provenance["model_id"] == identity(model)
    pipe, drawn = load_pipeline(model), []
    prompt, shape = Prompt("A photo of a zebra.", "test"), ModelConfig.model_validate(config["model"])
    noise = initial_noise(0, [(prompt.id, 0)], latent_shape(pipe, shape))
    for strength in (0, 1):
        with removal.attached(pipe, strength=strength):
            drawn.append(sample(pipe, [prompt.text], noise, shape))
    assert drawn[0].shape == (1, 16, 16, 3) and (drawn[0] != drawn[1]).any()
