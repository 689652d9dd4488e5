"""UnlearnCanvas: the configurations, its anchor prompts, the names of its images, the table."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.commands.measure.unlearncanvas import table, wanting
from flows.config import load
from saeuron.config import DomainConfig, PromptsConfig
from saeuron.errors import BadPrompts
from saeuron.figures.published import PUBLISHED
from saeuron.judges.unlearncanvas import OBJECTS, STYLES, spoken
from saeuron.prompts import build
from storage import Workspace
from storage.identity import artifact_id
from tasks.exchange.benchmark import image_name, read_by_script
from tasks.prompts import PromptsJob
from tests.end_to_end.process import run_here
from tests.saeuron.judges.test_classifiers import timm_names, tiny_vit


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """A copy with made-up anchor prompts: 80 of each object, some with a full stop, and two that are not read."""
    folder = tmp_path / "UnlearnCanvas" / "machine_unlearning" / "anchor_prompts"
    folder.mkdir(parents=True)
    for name in OBJECTS:
        lines = [f"{name} number {i}{'.' if i % 2 else ''}" for i in range(82)]
        (folder / f"sd_prompt_{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "UnlearnCanvas"


@pytest.mark.parametrize("name", ["sd15_style", "sd15_object"])
def test_the_configurations_have_every_style_and_object_of_the_benchmark(name: str) -> None:
    config = load(name)
    assert config.domains["style"].concepts == tuple(spoken(s) for s in STYLES if s != "Seed_Images")
    assert config.domains["object"].concepts == OBJECTS
    removed = config.domains["style" if name == "sd15_style" else "object"].concepts
    assert config.tune.concepts == removed and config.evaluate.seeds == 5
    assert (config.train.expansion * 1280, config.train.k, config.train.lr) == (20480, 32, 4e-4)
    assert (config.model.guidance, config.model.scheduler) == (9.0, "DDIMScheduler")
    assert config.domains["style"].hookpoints == ("unet.up_blocks.1.attentions.2",)
    assert config.domains["object"].hookpoints == ("unet.up_blocks.1.attentions.1",)
    # Steps to score and evaluate with, and to capture with; the half that SAEs and scores read.
    assert (config.model.steps, config.capture.steps, config.capture.half) == (100, 50, "conditional")
    assert (config.train.variant, config.train.batch, config.train.steps) == ("batch_topk", 4096, 20_000)
    gammas = (-1.0,) if name == "sd15_style" else (-5.0, -10.0, -20.0, -30.0)
    assert config.tune.settings["saeuron"] == {"n": (1, 2, 3), "gamma": gammas}
    assert config.method == ("saeuron",)


@pytest.mark.parametrize(("name", "steps"), [("sd15_style", 2_550_000), ("sd15_object", 1_275_000)])
def test_the_papers_training_is_as_docs_sd15_says(name: str, steps: int) -> None:
    said = Path("docs/sd15.md").read_text()
    words = ["capture.positions=256", "capture.every=1", f"train.steps={steps}"]
    assert all(word in said for word in words)
    ours, paper = load(name), load(name, words)
    kept = [c.capture.positions / 256 / c.capture.every for c in (ours, paper)]  # type: ignore[operator]
    assert kept == [pytest.approx(1 / 20), 1]
    # 80 anchor prompts of 20 objects, in 50 styles and unstyled; 50 steps of 256 positions.
    images = paper.capture.prompts_per_cell * 20 * 50 + paper.capture.plain_prompts * 20
    rows = images * paper.capture.steps * 256  # type: ignore[operator]
    assert (images, rows) == (81_600, 1_044_480_000)
    epochs = 10 if name == "sd15_style" else 5
    assert paper.train.steps * paper.train.batch == epochs * rows
    assert ours.train.steps * ours.train.batch / (rows / 20) == pytest.approx(1.57, abs=0.01)
    assert round(paper.train.steps / ours.train.steps) == (128 if name == "sd15_style" else 64)
    # What a longer training leaves as it is.
    changed = {"steps"}
    assert paper.train.model_dump(exclude=changed) == ours.train.model_dump(exclude=changed)
    assert (ours.train.schedule, ours.train.warmup, ours.train.clip, ours.train.auxk_alpha) == ("linear", 0, 1, 1 / 32)
    assert ours.train.dead_rows == 10_000_000


def test_anchors_become_81600_training_prompts(benchmark: Path) -> None:
    config = load("sd15_style", [f"prompts.unlearncanvas={benchmark}", "prompts.templates.train=[]"])
    train = [p for p in build(config.prompts, config.domains) if p.split == "train"]
    assert len(train) == 80 * 20 * 51
    asked = {p.text: dict(p.concepts) for p in train}
    assert asked["Cats number 3."] == {"object": "Cats"}
    assert asked["Cats number 3 in Artist Sketch style."] == {"object": "Cats", "style": "Artist Sketch"}
    assert asked["Cats number 2 in Monet style."] == {"object": "Cats", "style": "Monet"}
    assert "Cats number 80" not in asked
    with_photos = [f"prompts.unlearncanvas={benchmark}", "domains.style.concepts=[Monet, Seed Images]",
                   "tune.concepts=[Monet]"]  # fmt: skip
    config = load("sd15_style", with_photos)
    texts = {p.text for p in build(config.prompts, config.domains)}
    assert "Cats number 2 in Seed Images style." in texts


def test_the_files_content_and_not_its_place_is_what_counts(benchmark: Path, tmp_path: Path) -> None:
    def job(folder: Path) -> PromptsJob:
        domains = {"object": DomainConfig(concepts=("Cats", "Dogs"), hookpoints=("unet.a",))}
        return PromptsJob(workspace=tmp_path, config=PromptsConfig(unlearncanvas=str(folder)), domains=domains)

    before = job(benchmark).id
    moved = benchmark.rename(tmp_path / "elsewhere")
    assert job(moved).id == before
    next(moved.rglob("sd_prompt_Bears.txt")).write_text("other")  # no concept of this run
    assert job(moved).id == before
    path = next(moved.rglob("sd_prompt_Cats.txt"))
    path.write_text(path.read_text() + "more\n")
    assert job(moved).id != before


def test_a_copy_with_files_missing_or_short_is_refused_in_a_line(benchmark: Path) -> None:
    domains = {"object": DomainConfig(concepts=OBJECTS, hookpoints=("unet.a",))}
    told = PromptsConfig(unlearncanvas=str(benchmark))
    path = next(benchmark.rglob("sd_prompt_Dogs.txt"))
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:79]))
    with pytest.raises(BadPrompts, match=r"sd_prompt_Dogs.txt has 79 anchor prompts; expected 80, one a line"):
        build(told, domains)
    path.unlink()
    with pytest.raises(BadPrompts, match=r"lacks 1 of 20 files of anchor prompts \(sd_prompt_Dogs.txt\); in the bench"):
        build(told, domains)
    with pytest.raises(BadPrompts, match="no such folder: /nowhere"):
        build(PromptsConfig(unlearncanvas="/nowhere"), domains)
    with pytest.raises(BadPrompts, match="needs a domain named object; there are style"):
        build(told, {"style": DomainConfig(concepts=("Monet",), hookpoints=("unet.a",))})


def test_without_the_model_a_plan_says_so_in_one_line(tmp_path: Path) -> None:
    done = run_here("run", "sd15_style", "--plan", "-w", tmp_path / "w")
    assert done.code == 2 and "no such model: './sd15-unlearncanvas'; expected" in done.complaint
    assert not (tmp_path / "w").exists()


def test_images_get_the_benchmarks_names() -> None:
    asked = {"style": "Artist Sketch", "object": "Cats"}
    assert image_name(asked, 0) == "Artist_Sketch_Cats_seed188.jpg"
    assert image_name(asked, 4) == "Artist_Sketch_Cats_seed888.jpg" and image_name(asked, 5) is None
    assert image_name({"object": "Cats"}, 1) == "Cats_seed288.jpg"
    assert image_name({"style": "Monet"}, 0) is None


def test_the_names_that_the_benchmarks_script_opens() -> None:
    opened = read_by_script()
    assert len(opened) == len({*opened}) == 51 * 20 * 5
    assert opened[:2] == ["Abstractionism_Architectures_seed188.jpg", "Abstractionism_Bears_seed188.jpg"]
    assert opened[20] == "Abstractionism_Architectures_seed288.jpg" and opened[-1] == "Winter_Waterfalls_seed888.jpg"
    assert opened.index("Seed_Images_Architectures_seed188.jpg") == 38 * 100


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, styles: Iterable[str | None]) -> Path:
    """A workspace with one evaluation, of Monet; its image sets hold every object in these styles (None: in none)."""
    opened = Workspace.open(folder / "w")
    sets = {
        "images_v3_target": [s for s in styles if s == "Monet"],
        "images_v3_others": [s for s in styles if s != "Monet"],
    }
    summary = {"domain": "style", "concept": "Monet", "method": "saeuron"}
    inputs = {"edited": [*sets], "unedited": [*sets]}
    opened.commit(artifact_id("evaluation", 1, summary), config={}, inputs=inputs, summary=summary, seconds=0)

    def index(workspace: Workspace, image_set: str) -> list[dict[str, object]]:
        asked = [[("object", o), *([("style", s)] if s else [])] for s in sets[image_set] for o in OBJECTS]
        return [{"asked": each, "image_index": i} for each in asked for i in range(5)]

    def batches(workspace: Workspace, image_set: str, rows: list[dict[str, object]]) -> Iterator[tuple[object, object]]:
        # Unstyled images are white, styled ones black.
        shades = [255 * (len(row["asked"]) == 1) for row in rows]  # type: ignore[arg-type]
        yield rows, np.stack([np.full((8, 8, 3), shade, np.uint8) for shade in shades])

    monkeypatch.setattr("tasks.images.index", index)
    monkeypatch.setattr("tasks.images.batches", batches)
    monkeypatch.setattr("tasks.exchange.benchmark.write_atomic", Path.write_bytes)  # 5,200 times to the disk is slow
    return folder / "w"


ALL: list[str | None] = [None, *(spoken(s) for s in STYLES if s != "Seed_Images")]


def test_a_whole_export_has_every_file_that_the_scripts_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, out = evaluated(tmp_path, monkeypatch, ALL), tmp_path / "answers"
    done = run_here("unlearncanvas", "export", "Monet", "--out", out, "-w", workspace)
    assert done.code == 0 and "note:" not in done.out, done.out + done.err
    assert f"5200 files in {out}, such as Abstractionism_Architectures_seed188.jpg" in done.out
    assert f"next: saeuron unlearncanvas export Monet --method saeuron --unedited --out {out}-unedited" in done.out
    # accuracy.py: for every style, seed and object, and nothing asks whether the file is there.
    for style in STYLES:
        for seed in (188, 288, 588, 688, 888):
            for name in OBJECTS:
                assert (out / f"{style}_{name}_seed{seed}.jpg").is_file()
    # SAeUron's script, of unstyled images.
    for name in OBJECTS:
        plain, photograph = (out / f"{prefix}{name}_seed188.jpg" for prefix in ("", "Seed_Images_"))
        assert plain.read_bytes() == photograph.read_bytes()
        with Image.open(plain) as picture:
            assert np.asarray(picture.convert("L")).min() > 250
    with Image.open(out / "Monet_Cats_seed888.jpg") as picture:
        assert np.asarray(picture).max() < 5


def test_what_an_export_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, out = evaluated(tmp_path, monkeypatch, ["Monet", None]), tmp_path / "answers"
    done = run_here("unlearncanvas", "export", "Monet", "--unedited", "--out", out, "-w", workspace)
    assert done.code == 0, done.err
    said = (
        "the benchmark's accuracy.py opens 5100 files and stops at Abstractionism_Architectures_seed188.jpg, the first "
    )
    assert f"note: {said}of 4900 that are missing." in " ".join(done.out.split()) and "None is named" not in done.out
    assert next(name for name in read_by_script() if not (out / name).exists()) == read_by_script()[0]


def test_that_there_are_no_photographs_is_said() -> None:
    styled = [name for name in read_by_script() if not name.startswith("Seed_Images")]
    assert wanting(styled).endswith(
        "stops at Seed_Images_Architectures_seed188.jpg, the first of 100 that are missing. None is named "
        "Seed_Images_OBJECT_seedN.jpg: no test prompt is without a style."
    )
    assert wanting(read_by_script()) == ""


def test_a_style_named_seed_images_keeps_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, out = evaluated(tmp_path, monkeypatch, ["Monet", None, "Seed Images"]), tmp_path / "answers"
    assert run_here("unlearncanvas", "export", "Monet", "--out", out, "-w", workspace).code == 0
    with Image.open(out / "Seed_Images_Cats_seed188.jpg") as asked, Image.open(out / "Cats_seed188.jpg") as plain:
        assert np.asarray(asked).max() < 5 and np.asarray(plain).min() > 250
    assert len([*out.iterdir()]) == 300


def test_an_export_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = evaluated(tmp_path, monkeypatch, ["Monet"])
    done = run_here("unlearncanvas", "export", "Monett", "--out", tmp_path / "a", "-w", workspace)
    assert done.code == 2 and "unknown concept evaluated with saeuron 'Monett': did you mean 'Monet'" in done.complaint
    monkeypatch.setattr("tasks.images.index", lambda *a: [{"asked": [("style", "Monet")], "image_index": 0}])
    done = run_here("unlearncanvas", "export", "Monet", "--out", tmp_path / "a", "-w", workspace)
    assert done.code == 2 and "no image names an object; UnlearnCanvas's names need the domains" in done.complaint
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    done = run_here("unlearncanvas", "export", "Monet", "--out", tmp_path / "a", "-w", workspace)
    assert done.code == 2 and "holds other things (mine.txt)" in done.complaint
    done = run_here("unlearncanvas", "convert", tmp_path / "style50_cls.pth", "--out", tmp_path / "a")
    assert done.code == 2 and "holds other things (mine.txt)" in done.complaint


def test_classifiers_are_converted_one_after_the_other(tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    for name, classes in (("style50_cls", STYLES), ("object_cls", OBJECTS)):
        torch.save({"model_state_dict": timm_names(tiny_vit(classes, side=224, patch=32))}, tmp_path / f"{name}.pth")
    done = run_here("unlearncanvas", "convert", tmp_path / "style50_cls.pth", "--out", heads)
    assert done.code == 0, done.err
    content = hashlib.sha256((heads / "style.safetensors").read_bytes()).hexdigest()
    assert done.out.splitlines()[:2] == [f"{heads / 'style.safetensors'}: 51 classes of style", f"sha256 {content}"]
    assert done.out.splitlines()[2] == f"next: saeuron unlearncanvas convert OBJECT.pth --out {heads}"
    done = run_here("unlearncanvas", "convert", tmp_path / "object_cls.pth", "--out", heads)
    assert done.code == 0 and f"--set domains.object.judge=unlearncanvas:{heads} --plan" in done.out
    done = run_here("unlearncanvas", "convert", tmp_path / "none.pth", "--out", heads)
    assert done.code == 2 and "no such file" in done.complaint


def test_the_table_has_published_rows_and_means_of_ones_own() -> None:
    def evaluated(concept: str, ua: float) -> dict[str, object]:
        figure = {"low": ua - 0.03, "high": ua + 0.03, "unedited": 0.0}
        metrics = {name: figure | {"value": ua} for name in ("UA", "IRA", "CRA")}
        return {"domain": "style", "concept": concept, "method": "saeuron", "metrics": metrics, "value": ua}

    rows = table([evaluated("Monet", 0.9), evaluated("Rust", 0.8), evaluated("Joy", 0.7), evaluated("Bricks", 0.6)])
    (own,) = [r for r in rows if r["method"] == "yours: saeuron"]
    # Half of the interval of a mean of four alike is half of each one's.
    assert (own["UA"], own["mean"], own["of"]) == ("75.0 +-1.5", "75.00", "4 of 50 concepts")
    assert len(rows) == len(PUBLISHED) + 1
    style = [float(r["mean"]) for r in rows if r["domain"] == "style"]
    assert style == sorted(style, reverse=True)
    (sae,) = [r for r in rows if r["method"] == "SAeUron" and r["domain"] == "style"]
    assert (sae["UA"], sae["IRA"], sae["CRA"]) == ("95.80", "99.10", "99.40")
    unjudged = evaluated("Monet", 0.9) | {"metrics": {"UA": {"value": None}}, "value": None}
    assert next(r for r in table([unjudged]) if r["method"].startswith("yours"))["mean"] == "-"
