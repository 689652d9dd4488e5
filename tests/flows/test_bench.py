"""`saeuron bench` of removals that were made elsewhere; those that a run learns are in end_to_end/test_controls.py."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import bench
from flows.config import load
from saeuron.canvas import FOLDERS
from saeuron.figures.metrics import Judged
from saeuron.figures.row import Removed, row
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from saeuron.notebook import evaluate
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import build
from tasks.bench import _Noting
from tests.end_to_end.process import TINY, Done, run_here

MODULE = """
from contextlib import contextmanager

class Negative:
    @contextmanager
    def attached(self, pipe):
        yield {"negative_prompt": "cat"}

class Nothing:
    @contextmanager
    def attached(self, pipe):
        yield

negative, nothing, number = Negative(), Nothing(), 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it holds a module, a removal of cat and a folder that is no pipeline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "erasing_bench.py").write_text(MODULE)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no removal")
    removal().save(tmp_path / "cat.safetensors")
    return tmp_path


def removal(concept: str = "cat") -> Removal:
    return Removal(concept, "object", "negative_prompt", {}, (Call({"negative_prompt": "cat"}),))


def scored(*words: str) -> dict[str, Any]:
    done = run_here("bench", TINY, *words, "--threads", "1", "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.mark.usefixtures("here")
def test_a_file_and_an_object_have_the_figures_of_the_library() -> None:
    config, pipe = load(str(TINY)), load_pipeline("canvas20")
    metrics = evaluate(
        pipe, removal(), build(config.prompts, config.domains), judge="canvas20", model=config.model,
        **config.evaluate.model_dump(),
    )  # fmt: skip
    expected = {m.metric: (m.value, m.unedited) for m in metrics}
    file, thing = scored("cat.safetensors"), scored("erasing_bench:negative", "--removed", "cat")
    for found in (file, thing):
        [one] = found["removals"]
        assert (one["domain"], one["concept"], found["images"]) == ("object", "cat", 12)
        for name in ("UA", "IRA", "CRA"):
            assert (one["edited"][name], one["unedited"][name]) == pytest.approx(expected[name])
        # Too few prompts ask for the cat for an interval of the mean.
        assert (found["low"], found["high"]) == (None, None)
        assert found["difference"] is found["minus_random"] is one["difference"] is None
        for name in ("UA", "IRA", "CRA"):
            low, high = found["intervals"][name]
            assert low <= found["edited"][name] <= high and one["intervals"] == found["intervals"]
    assert file["command"] == f"saeuron bench {TINY} cat.safetensors"
    assert thing["command"] == f"saeuron bench {TINY} erasing_bench:negative --removed cat"


def test_odd_images_are_counted_of_those_that_ask_for_the_concept() -> None:
    noting = _Noting(SimpleNamespace(ordinary=lambda images: [value < 5 for value in images], identity="j-1"))
    asked = [True, True, False, True, False]
    noting.ordinary += [*noting.judge.ordinary([1, 9, 9, 1, 1]), *noting.judge.ordinary([9, 9, 1, 1, 1])]
    assert noting.shares(asked) == (2 / 3, 1 / 3) and noting.identity == "j-1"
    assert noting.shares([False] * 5) is None


@pytest.mark.usefixtures("here")
def test_a_folder_is_measured_against_the_protocols_own_model() -> None:
    same = scored(str(FOLDERS["canvas20"]), "--removed", "cat")
    idle = scored("erasing_bench:nothing", "--removed", "cat")
    for found in (same, idle):
        assert found["edited"] == found["unedited"]
        assert found["removals"][0]["victim"]["loss"] == 0
    assert same["edited"] == idle["edited"]


@pytest.mark.usefixtures("here")
def test_a_pipeline_that_draws_something_else_loses_it_all(tiny_model_folder: Path) -> None:
    found = scored(str(tiny_model_folder), "--removed", "moon")
    assert found["edited"]["UA"] > found["unedited"]["UA"] and found["edited"]["IRA"] < found["unedited"]["IRA"]


@pytest.mark.usefixtures("here")
def test_the_page_fits_and_the_line_is_of_the_table() -> None:
    done = run_here("bench", TINY, "cat.safetensors", "--threads", "1")
    assert done.code == 0 and "12 test images" in done.out and "no difference to untrained" in done.out
    assert "no difference to random" in done.out and "95 % intervals" in done.out and "minus" not in done.out
    command = f"saeuron bench {TINY} cat.safetensors"
    assert all(len(line) <= 80 or line == command for line in done.out.splitlines())
    line = run_here("bench", TINY, "cat.safetensors", "--threads", "1", "--markdown")
    cells = [cell.strip() for cell in line.out.strip().strip("|").split("|")]
    assert not line.err and len(cells) == len(bench.COLUMNS)
    assert (cells[0], cells[1], cells[-1], cells[-4]) == ("cat.safetensors", "cat", f"`{command}`", "-")


def test_the_page_has_a_table_by_concept_beside_both_controls() -> None:
    plain = [
        Judged(f"{s} {o}", 0, {"style": s, "object": o}, {"style": s, "object": o})
        for s in ("neon", "dots", "stripes", "watercolour", "grain", "sepia")
        for o in ("cat", "moon", "crescent", "key", "anchor", "star")
    ]  # fmt: skip

    def gone(domain: str, concept: str) -> list[Judged]:
        return [replace(j, seen={**j.seen, domain: "x"}) if j.asked[domain] == concept else j for j in plain]

    where = (("style", "watercolour"), ("object", "crescent"))
    removed = [Removed(d, c, gone(d, c), plain, control=plain, random=gone(d, c)) for d, c in where]
    found = bench.page(bench.Benched("saeuron", row(("style", "object"), removed), 60, "saeuron bench"))
    lines = found.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("95 % intervals")
    assert [line.split()[0] for line in lines[at + 3 : at + 6]] == ["watercolour", "crescent", "mean"]
    at = lines.index("mean minus that of a control (95 %)")
    assert lines[at + 1].split() == ["removed", "minus", "untrained", "minus", "random"]
    # UA is 1 with the removal and 0 with the first control: a third of the mean.
    assert all("+33.3 (33.3 to 33.3)" in line and "+0.0 (0.0 to 0.0)" in line for line in lines[at + 3 : at + 6])
    assert "does not beat random: +0.0 (0.0 to 0.0) points" in lines


def test_the_table_of_the_leaderboard_has_these_columns() -> None:
    page = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text()
    assert f"| {' | '.join(bench.COLUMNS)} |" in page


MISTAKES: dict[str, tuple[list[str], str]] = {
    "method": (
        ["saeuro"],
        "unknown method 'saeuro': did you mean 'saeuron' or 'saeuron_parity'? Or give a removal's file",
    ),
    "no removal": (["text.safetensors"], "text.safetensors is not a readable safetensors file"),
    "another file": (["erasing_bench.py"], "erasing_bench.py is not a readable safetensors file"),
    "no file": (["none.safetensors"], "no such removal: none.safetensors"),
    "no folder": (["./none"], "no such file or folder: ./none"),
    "no pipeline": (["empty", "--removed", "cat"], "it has no model_index.json"),
    "no module": (["nowhere_bench:x", "--removed", "cat"], "the module 'nowhere_bench' cannot be imported"),
    "no attribute": (
        ["erasing_bench:negativ", "--removed", "cat"],
        "unknown attribute of the module 'erasing_bench' 'negativ': did you mean 'negative'",
    ),
    "not attachable": (["erasing_bench:number", "--removed", "cat"], "is a int; expected an object with a method"),
    "a class": (["erasing_bench:Negative", "--removed", "cat"], "is a type; expected an object with a method"),
    "nothing removed": (["erasing_bench:negative"], "--removed is missing"),
    "nothing removed from a folder": ([str(FOLDERS["canvas20"])], "--removed is missing"),
    "unknown concept": (["erasing_bench:negative", "--removed", "cta"], "unknown concept 'cta': did you mean 'cat'"),
    "another concept": (["cat.safetensors", "--removed", "moon"], "cat.safetensors removes 'cat'"),
    "method and concept": (["saeuron", "--removed", "cat"], "a method is measured on all concepts"),
    "two forms": (["cat.safetensors", "--json", "--markdown"], "exclude each other"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engine.model.load_pipeline", _refuse)
    words, said = MISTAKES[name]
    _is_a_mistake(run_here("bench", TINY, *words), said)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("canvs", "unknown protocol 'canvs': did you mean 'canvas'"),
        (
            "all.yaml",
            "all.yaml is no protocol: it lacks tune.concepts, the concepts to remove. Protocols that ship: canvas;",
        ),
        ("unseen.yaml", "unseen.yaml is no protocol: it lacks domains.object.judge, who says what is shown."),
        (
            "alone.yaml",
            "saeuron stands beside an untrained SAE, and the protocol lacks it: expected controls.methods with",
        ),
    ],
)
def test_a_protocol_that_is_none(protocol: str, said: str) -> None:
    Path("all.yaml").write_text("base: canvas\ntune: {concepts: null}\n")
    Path("unseen.yaml").write_text("base: canvas\ndomains: {object: {judge: none}}\n")
    Path("alone.yaml").write_text("base: canvas\ncontrols: {methods: []}\n")
    _is_a_mistake(run_here("bench", protocol, "saeuron"), said)


@pytest.mark.parametrize(
    ("method", "controls"),
    [
        ("saeuron", ("untrained", "random")),
        ("gated_uce", ("gated_uce_untrained", "gated_uce_random")),
        ("either_uce", ("either_uce_untrained", "either_uce_random")),
        ("replace", ("replace_untrained",)),
        ("itd", ("itd_untrained",)),
        ("uce", ()),
        ("untrained", ()),
        ("gated_uce_untrained", ()),
    ],
)
def test_a_method_runs_beside_the_controls_that_are_like_it(method: str, controls: tuple[str, ...]) -> None:
    config = bench.of_method(bench.protocol("canvas"), method)
    assert (config.method, config.controls.methods) == ((method,), controls)


def test_the_protocol_that_ships_fixes_what_it_measures() -> None:
    found = bench.protocol("canvas")
    assert found.tune.concepts == ("stripes", "neon", "king", "cat") and found.model.spec == "canvas"
    assert (found.evaluate.seeds, found.evaluate.seed, found.evaluate.retained_cells) == (1, 3, 120)


def _refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a model was loaded")


def _is_a_mistake(done: Done, said: str) -> None:
    assert done.code == 2 and said in done.complaint and len(done.err.splitlines()) == 1, done.err
