"""The configuration `sd15_style` as it ships, on a tiny Stable Diffusion 1.5 with tiny classifiers; weights are random.

Two styles and two objects of UnlearnCanvas; everything else that the configuration says is kept but numbers that cost.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flows.config import load
from saeuron.judges import create
from saeuron.judges import unlearncanvas as benchmark
from saeuron.methods.removal import Removal
from storage import Workspace
from tasks import images
from tasks import prompts as prompt_sets
from tasks.exchange.benchmark import SEEDS, image_name
from tests.end_to_end.process import Done, rows, run_here
from tests.saeuron.judges.test_classifiers import timm_names, tiny_vit
from tests.saeuron.pipelines import tiny
from tests.tiny_clip import save_tiny_clip

pytestmark = pytest.mark.timeout(600)

STYLES, OBJECTS = ("Joy", "Rust"), ("Cats", "Sea")
CAPTIONS = ("A cat on a mat.", "A moon over a house.")
CHEAP = {
    "model": {"steps": 2},
    "capture": {"prompts_per_cell": 2, "plain_prompts": 2, "positions": 2, "every": 1, "steps": 2},
    "train": {"steps": 5, "batch": 64},
    "score": {"images": 4},
    "tune": {"concepts": ["Joy"], "target_images": 2, "retained_images": 4},
}


@pytest.fixture(scope="module")
def made(server: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Done]:
    """(workspace, the classifiers' folder, the run)."""
    folder = tmp_path_factory.mktemp("benchmark")
    model = tiny.save_built(tiny.stable_diffusion_15, folder / "sd15")
    for name, classes in benchmark.HEADS.items():
        weights = timm_names(tiny_vit(classes, side=224, patch=32))
        concepts = STYLES if name == "style" else OBJECTS
        # Else one of 51 classes, drawn at random, is seen in every picture, and every figure is 0 or 1.
        weights["head.bias"][[classes.index(c) for c in concepts]] += 30
        torch.save({"model_state_dict": weights}, folder / f"{name}.pth")
        assert run_here("unlearncanvas", "convert", folder / f"{name}.pth", "--out", folder / "heads").code == 0
    anchors = folder / "UnlearnCanvas/machine_unlearning/mu_concept_ablation_ca/anchor_prompts/finetune_prompts"
    anchors.mkdir(parents=True)
    letters = "abcdefghijklmnopqrst"
    for name in OBJECTS:
        lines = [f"{a}{b} {name.lower()}." for a in letters[:4] for b in letters]
        (anchors / f"sd_prompt_{name}.txt").write_text("\n".join(lines))
    judge = f"unlearncanvas:{folder / 'heads'}"
    domains = {"style": STYLES, "object": OBJECTS}
    config = CHEAP | {
        "base": "sd15_style",
        "domains": {name: {"concepts": concepts, "judge": judge} for name, concepts in domains.items()},
        "prompts": {
            "unlearncanvas": str(folder / "UnlearnCanvas"),
            "files": [{"path": str(folder / "coco_few.csv")}],
        },
        "features": f"clip:{save_tiny_clip(folder / 'clip')}",
    }
    (folder / "coco_few.csv").write_text("caption\n" + "\n".join(CAPTIONS) + "\n")
    config["model"] = {**CHEAP["model"], "spec": str(model)}
    (folder / "my.yaml").write_text(json.dumps(config))
    done = run_here("run", folder / "my.yaml", "-w", folder / "w", "--threads", "1")
    return folder / "w", folder / "heads", done


def test_the_configuration_is_what_ran(made: tuple[Path, Path, Done]) -> None:
    root, heads, done = made
    assert done.code == 0, done.err + done.out
    opened, config = Workspace.open(root, create=False), load("sd15_style")
    # The anchor prompts: 80 of each object, unstyled and in each style; and the configuration's own sentences.
    (made_prompts,) = opened.artifacts("prompts")
    assert made_prompts.summary["train"] == 2 * 80 * 3 + 2 * 3
    (capture, _) = opened.artifacts("capture")
    assert {k: capture.config["model"][k] for k in ("dtype", "guidance", "scheduler")} == {
        "dtype": "float16", "guidance": 9.0, "scheduler": "DDIMScheduler",
    }  # fmt: skip
    assert capture.config["config"]["half"] == config.capture.half == "conditional"
    saes = {m.summary["hookpoint"]: m.summary for m in opened.artifacts("sae")}
    assert {*saes} == {*config.domains["style"].hookpoints, *config.domains["object"].hookpoints}
    assert {s["n_latents"] for s in saes.values()} == {16 * config.train.expansion}
    removal = Removal.load(root / "removals" / "Joy.saeuron.safetensors")
    assert [e.hookpoint for e in removal.edits] == ["unet.up_blocks.1.attentions.2"]
    (trials,) = opened.artifacts("trials")
    assert trials.summary["candidates"] == 3  # n of 1, 2 and 3
    assert {m.summary["judge"] for m in opened.artifacts("judgements")} == {f"unlearncanvas:{heads}"}


JUDGED = """
select i.asked, j.domain, j.label, len(i.removals) > 0 as edited
from judgements j join images i using (image_set_id, key) where i.split = 'test'
"""


def by_hand(judged: list[dict[str, Any]], edited: bool) -> dict[str, float]:
    """UA, IRA and CRA of Joy, from the judgements one by one."""
    mine = [r for r in judged if r["edited"] == edited and r["asked"]]  # captions ask for nothing
    assert len(mine) == 2 * 5 * 6  # two judges, five images of six prompts
    ua, ira, cra = list[bool](), list[bool](), list[bool]()
    for row in mine:
        asked = dict(row["asked"])
        if "style" not in asked:
            continue
        if row["domain"] == "object":
            cra.append(row["label"] == asked["object"])
        elif asked["style"] == "Joy":
            ua.append(row["label"] != "Joy")
        else:
            ira.append(row["label"] == asked["style"])
    assert (len(ua), len(ira), len(cra)) == (10, 10, 20)
    return {name: sum(each) / len(each) for name, each in (("UA", ua), ("IRA", ira), ("CRA", cra))}


def test_figures_are_those_of_the_judgements_and_stand_in_the_table(made: tuple[Path, Path, Done]) -> None:
    root, _, _ = made
    judged = rows(root, JUDGED)
    figures, plain = by_hand(judged, True), by_hand(judged, False)
    assert 0 < figures["CRA"] < 1 and figures != plain, (figures, plain)
    (evaluation,) = Workspace.open(root, create=False).artifacts("evaluation")
    for name, figure in figures.items():
        assert evaluation.summary["metrics"][name]["value"] == pytest.approx(figure)
        assert evaluation.summary["metrics"][name]["unedited"] == pytest.approx(plain[name])
    done = run_here("unlearncanvas", "--json", "-w", root)
    (own,) = (r for r in json.loads(done.out) if r["method"] == "yours: saeuron")
    assert (own["domain"], own["of"]) == ("style", "1 of 50 concepts")
    assert {name: own[name].split()[0] for name in figures} == {n: f"{100 * v:.1f}" for n, v in figures.items()}
    assert own["mean"] == f"{100 * sum(figures.values()) / 3:.2f}"


@pytest.mark.parametrize("edited", [True, False])
def test_an_export_has_these_images_under_the_benchmarks_names(
    edited: bool, made: tuple[Path, Path, Done], tmp_path: Path
) -> None:
    root, _, _ = made
    words = () if edited else ("--unedited",)
    done = run_here("unlearncanvas", "export", "Joy", "--out", tmp_path / "a", *words, "-w", root)
    assert done.code == 0, done.err
    styled = {f"{s}_{o}_seed{n}.jpg" for s in STYLES for o in OBJECTS for n in SEEDS}
    unstyled = {f"{start}{o}_seed{n}.jpg" for start in ("", "Seed_Images_") for o in OBJECTS for n in SEEDS}
    assert {p.name for p in (tmp_path / "a").iterdir()} == styled | unstyled
    said = " ".join(done.out.split())
    assert f"40 files in {tmp_path / 'a'}, such as Cats_seed188.jpg" in said
    # Of 51 styles, 20 objects and five seeds.
    assert f"the first of {5100 - len(styled) - 10} that are missing." in said and "None is named" not in said

    opened = Workspace.open(root, create=False)
    (evaluation,) = opened.artifacts("evaluation")
    (image_set,) = evaluation.inputs["edited" if edited else "unedited"]
    for rows_, pictures in images.batches(opened, image_set, images.index(opened, image_set)):
        for row, picture in zip(rows_, pictures, strict=True):
            if (name := image_name(dict(row["asked"]), row["image_index"])) is None:
                assert not row["asked"]
                continue
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "JPEG", quality=75)
            assert (tmp_path / "a" / name).read_bytes() == data.getvalue()


def test_captions_have_a_clip_score_by_the_features_where_no_judge_gives_one(made: tuple[Path, Path, Done]) -> None:
    root, heads, _ = made
    opened = Workspace.open(root, create=False)
    (evaluation,) = opened.artifacts("evaluation")
    quality = [q for q in evaluation.summary["quality"] if q["image_set"] == "prompts of coco_few"]
    assert [q["metric"] for q in quality] == ["Frechet distance", "CLIP score"]
    (prompts,) = opened.artifacts("prompts")
    texts = {p.id: p.text for p in prompt_sets.read(opened, prompts.id) if p.source == "coco_few"}
    assert {*texts.values()} == {*CAPTIONS}
    clip, expected = create(f"clip:{heads.parent / 'clip'}", "style"), []
    for kind in ("edited", "unedited"):
        (image_set,) = evaluation.inputs[kind]
        index = [row for row in images.index(opened, image_set) if row["prompt_id"] in texts]
        assert len(index) == 5 * len(CAPTIONS)
        scores = [
            clip.agreement(pictures, [texts[row["prompt_id"]] for row in batch])  # type: ignore[attr-defined]
            for batch, pictures in images.batches(opened, image_set, index)
        ]
        expected.append(float(np.concatenate(scores).mean()))
    (score,) = (q for q in quality if q["metric"] == "CLIP score")
    assert score["n"] == 10 and score["extractor"].startswith("image embedding of clip-")
    assert (score["value"], score["unedited"]) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert expected[0] != expected[1] and all(0 < each < 100 for each in expected)
