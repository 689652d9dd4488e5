"""docs/extending.md: each recipe installed as a package's entry point, run by the command line, and removed."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from saeuron import installed, judges, methods, pipelines
from saeuron.canvas import WEIGHTS20
from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.methods.removal import Removal
from saeuron.sae.autoencoder import SAE
from tasks import stages
from tests.end_to_end.process import LARGE, TINY, run_here

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
RECIPES = dict(re.findall(r"^## A (.*?)\n.*?^```python\n(.*?)^```", PAGE, re.S | re.M))
FAMILY = "LatentConsistencyModelPipeline"
ENTRIES = {
    "method": ("saeuron.methods", "erase", "Erase"),
    "judge": ("saeuron.judges", "brightness", "Brightness"),
    "pipeline family": ("saeuron.pipelines", FAMILY, "LatentConsistency"),
    "stage": ("saeuron.stages", "norms", "NormsJob"),
}
"""{recipe: (group, name of its entry point, class)}."""


def forget() -> None:
    installed.entries.cache_clear()
    stages._installed.cache_clear()


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The code of a recipe, in a module that an entry point names for as long as the test lasts."""
    group, name, attribute = ENTRIES[request.param]
    module = "recipe_" + request.param.replace(" ", "_")
    about = tmp_path / "site" / f"{module}-1.0.dist-info"
    about.mkdir(parents=True)
    (tmp_path / "site" / f"{module}.py").write_text(RECIPES[request.param])
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget()
    yield name
    sys.modules.pop(module, None)
    monkeypatch.undo()
    forget()


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package of `recipe` were gone."""
    sys.path[:] = [path for path in sys.path if not path.endswith("/site")]
    forget()


def rows(workspace: Path, query: str) -> list[dict[str, object]]:
    done = run_here("sql", query, "-w", workspace, "--format", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)  # type: ignore[no-any-return]


def run(root: Path, *words: str) -> None:
    done = run_here("run", TINY, "-w", root, *LARGE, "--threads", "1", *words)
    assert done.code == 0, done.err + done.out


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workspace, tmp_path / "w"))


def test_the_page_has_these_recipes_each_under_45_lines() -> None:
    assert {*RECIPES} == {*ENTRIES}
    assert max(len(code.splitlines()) for code in RECIPES.values()) < 45


@pytest.mark.parametrize("recipe", ["method"], indirect=True)
def test_a_method_of_another_package_removes_and_is_gone_with_it(
    recipe: str, server: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--set", "method=erase", "--set", "tune.concepts=[stripes]")
    run(root, *words)
    removal = Removal.load(root / "removals" / "stripes.erase.safetensors")
    assert [(p.kind, float(p.direction.norm())) for p in removal.parts] == [("projection", pytest.approx(1))] * 2  # type: ignore[attr-defined]
    assert removal.settings["share"] in (0.5, 1.0)
    tried = rows(root, "select concept, method, settings from removals where method = 'erase'")
    assert [(row["concept"], row["method"]) for row in tried] == [("stripes", "erase")]
    assert rows(root, "select distinct metric from metrics where method = 'erase' and metric = 'UA'")
    uninstall(monkeypatch)
    done = run_here("run", TINY, "-w", root, *LARGE, *words, "--plan")
    assert done.code == 2 and "unknown method 'erase'" in done.complaint


@pytest.mark.parametrize("recipe", ["judge"], indirect=True)
def test_a_judge_of_another_package_judges_and_is_gone_with_it(
    recipe: str, server: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--set", "domains.style.judge=brightness:0.1")
    before = {p.name for p in (root / "artifacts" / "images").iterdir()}
    run(root, *words)
    said = rows(
        root, "select distinct judge, label, domain from judgements where judge like 'brightness%' order by all"
    )
    assert said and {row["domain"] for row in said} == {"style"}
    assert {row["label"] for row in said} <= {"dots", "neon", "stripes"}
    assert before <= {p.name for p in (root / "artifacts" / "images").iterdir()}
    done = run_here("run", TINY, "-w", root, "--set", "domains.style.judge=brightness:very", "--plan")
    assert done.code == 2 and "'brightness' got 'very'" in done.complaint
    pictures = np.full((2, 4, 4, 3), [[[[0]]], [[[255]]]], np.uint8)
    assert [j.label for j in judges.create("brightness", "style")(pictures, ["a", "b"])] == ["a", "b"]
    uninstall(monkeypatch)
    with pytest.raises(UnknownName, match="unknown judge 'brightness'"):
        judges.create("brightness", "style")


@pytest.mark.parametrize("recipe", ["pipeline family"], indirect=True)
def test_a_family_of_another_package_generates_and_is_gone_with_it(
    recipe: str, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS20, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": FAMILY, "scheduler": ["diffusers", "LCMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    # Such a UNet takes the guidance scale as an input, which has no effect here: its weights are zero.
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"time_cond_proj_dim": 8}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    (weights,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    channels = tensors["time_embedding.linear_1.weight"].shape[1]
    save_file(tensors | {"time_embedding.cond_proj.weight": torch.zeros(channels, 8)}, weights, {"format": "pt"})
    small = {
        "model.spec": folder, "domains.style.concepts": "[neon, dots]", "domains.object.concepts": "[cat, moon]",
        "domains.style.hookpoints": "[unet.up_blocks.1.attentions.0]", "tune.concepts": "[neon]", "train.steps": 5,
        "capture.plain_prompts": 0, "tune.settings": "{saeuron: {n: [4], gamma: [-1.0]}}",
    }  # fmt: skip
    run(tmp_path / "w", *(word for key, value in small.items() for word in ("--set", f"{key}={value}")))
    # 2 x 2 combinations, a prompt each.
    assert rows(tmp_path / "w", "select distinct images, steps from captures") == [{"images": 4, "steps": 3}]
    out = tmp_path / "cat.png"
    words = ("generate", "An image of cat.", "--remove", "neon", "-w", tmp_path / "w", "--out", out, "--threads", "1")
    done = run_here(*words)
    assert done.code == 0, done.err
    with Image.open(out) as sheet:  # unedited beside edited
        assert sheet.width > sheet.height > 32
    uninstall(monkeypatch)
    with pytest.raises(BadModel, match=f"has the class {FAMILY}, which is not supported"):
        pipelines.family_named(FAMILY, "it")


@pytest.mark.parametrize("recipe", ["stage"], indirect=True)
def test_a_stage_of_another_package_runs_and_is_gone_with_it(
    recipe: str, server: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root)
    found = rows(root, "select norms_id, max(norm) as largest, count(*) as n from norms group by all order by all")
    saes = sorted((root / "artifacts" / "sae").iterdir())
    expected = sorted((float(s.W_enc.norm(dim=1).max()), s.info.n_latents) for s in map(SAE.load, saes))
    assert sorted((row["largest"], row["n"]) for row in found) == [(pytest.approx(v), n) for v, n in expected]
    uninstall(monkeypatch)
    assert "norms" not in stages.every()
    assert run_here("verify", "-w", root).code == 0


@pytest.mark.parametrize("recipe", [*ENTRIES], indirect=True)
def test_an_entry_point_that_cannot_be_loaded_is_a_mistake_in_one_line(
    recipe: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (module,) = (tmp_path / "site").glob("*.py")
    module.write_text("import a_package_that_is_not_there\n")
    ask = {
        "saeuron.methods": methods.get,
        "saeuron.judges": lambda name: judges.create(name, "style"),
        "saeuron.pipelines": pipelines.family_named,
        "saeuron.stages": lambda name: stages.every(),
    }
    (group,) = (group for group, name, _ in ENTRIES.values() if name == recipe)
    with pytest.raises(ConfigError, match=rf"{recipe}' \({module.stem}:\w+\) cannot be loaded: No module named"):
        ask[group](recipe)
