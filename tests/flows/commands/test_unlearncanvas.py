"""UnlearnCanvas: the configurations, its anchor prompts, the names of its images, the table."""

from pathlib import Path

import pytest

from flows.commands.measure.unlearncanvas import table
from flows.config import load
from saeuron.config import DomainConfig, PromptsConfig
from saeuron.errors import BadPrompts
from saeuron.figures.published import PUBLISHED
from saeuron.judges.unlearncanvas import OBJECTS, STYLES, spoken
from saeuron.prompts import build
from tasks.exchange.benchmark import image_name
from tasks.prompts import PromptsJob
from tests.end_to_end.process import run_here


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
