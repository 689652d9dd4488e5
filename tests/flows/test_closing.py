"""The text at the end of a run: verdicts, victims by name, and whether anything was judged."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.closing import closing, verdicts
from flows.commands.run import run_pipeline
from saeuron.config import RunConfig
from storage import Workspace
from tasks.registry import runs


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


def config(**judges: str) -> RunConfig:
    domains = {
        "style": {"concepts": ["neon", "dots"], "hookpoints": ["unet.mid"], "judge": judges.get("style", "canvas20")},
        "object": {"concepts": ["cat", "ring"], "hookpoints": ["unet.mid"], "judge": judges.get("object", "canvas20")},
    }
    return RunConfig.model_validate({"domains": domains, "prompts": {"templates": {"train": ["{object}, {style}"]}}})


def harm(name: str, after: float, before: float = 1.0) -> dict[str, Any]:
    return {"harmed": name, "domain": "object", "before": before, "after": after, "low": 0.5, "high": 1.0, "n": 12}


def result(*evaluations: dict[str, Any]) -> dict[str, Any]:
    figure = {"value": 1.0, "unedited": 0.0, "low": 0.8, "high": 1.0}
    common: dict[str, Any] = {
        "domain": "object", "method": "saeuron", "images": 216, "value": 0.9, "verdict": "holds", "reason": "",
        "harmed": [], "others": 28, "metrics": dict.fromkeys(("UA", "IRA", "CRA", "CRA-target"), figure),
    }  # fmt: skip
    rows = [common | e for e in evaluations]
    removals = [{**row, "settings": {"n": 16, "gamma": -1.0}} for row in rows]
    counts = {"made": 1, "cached": 0, "failed": 0}
    return {"evaluations": rows, "comparisons": [], "removals": removals, "failures": [], "counts": counts}


CAT = {
    "concept": "cat", "verdict": "weak", "reason": "IRA lost 29.9 points (23.2 to 36.3), 10 allowed",
    "harmed": [*(harm(name, 0) for name in ("heart", "moon", "ring", "umbrella")), harm("mushroom", 1 / 12, 11 / 12)],
}  # fmt: skip
BOLT = {"concept": "bolt", "verdict": "failed", "reason": "8.3 % of it is gone, at most 35.4, 60 needed"}


def test_victims_are_named_the_worst_first(workspace: Workspace) -> None:
    said = closing(workspace, config(), result(CAT, BOLT, {"concept": "ring"})).splitlines()
    start = said.index("cat: weak. IRA lost 29.9 points (23.2 to 36.3), 10 allowed")
    assert said[start + 1 : start + 6] == [
        "  harms: heart 0 (was 100), moon 0 (was 100), ring 0 (was 100),",
        "    umbrella 0 (was 100), mushroom 8 (was 92)",
        "bolt: failed. 8.3 % of it is gone, at most 35.4, 60 needed; harms none of 28",
        "  other concepts for certain",
        "ring: holds; harms none of 28 other concepts for certain",
    ]
    assert "verdicts: 1 holds, 1 weak, 1 failed" in said
    assert said[0].split()[-2:] == ["mean", "verdict"]
    assert [line.split()[-1] for line in said[2:5]] == ["weak", "failed", "holds"]


def test_many_victims_are_cut_with_the_command_that_names_all(workspace: Workspace) -> None:
    many = {"concept": "cat", "verdict": "failed", "harmed": [harm(f"o{i}", i / 100) for i in range(11)]}
    said = closing(workspace, config(), result(many))
    assert "o7 7 (was 100)" in said and "o8 8" not in said
    assert f"and 3 more: saeuron concept show cat -w {workspace.root}" in said


@pytest.mark.parametrize("methods", [("saeuron",), ("saeuron", "negative_prompt")])
@pytest.mark.parametrize("name", ["cat", "a very long name of a concept that somebody has chosen for a style"])
def test_it_fits_eighty_columns(workspace: Workspace, methods: tuple[str, ...], name: str) -> None:
    rows = [{**CAT, "concept": name, "method": m, "verdict": "cannot be judged"} for m in methods]
    said = closing(workspace, config(style="none"), result(*rows)).splitlines()
    # Commands and paths stay whole, so that they can be copied.
    assert [line for line in said if len(line) > 80 and not line.startswith(("next: ", "workspace: "))] == []
    assert any("cannot be judged" in line for line in said)
    # Where columns do not fit, a removal is a block of lines.
    assert len(methods) == 1 or any(
        line.split()[-1] == "negative_prompt" or "negative_prompt  " in line for line in said
    )


def quality(metric: str, value: float, unedited: float | None, which: str, control: float | None = None) -> Any:
    about = {"extractor": "canvas-1", "n": 40, "image_set": f"{which} cat", "control": control}
    return {"metric": metric, "value": value, "unedited": unedited, **about}


def test_what_became_of_the_pictures_is_a_table_and_stands_by_each_verdict(workspace: Workspace) -> None:
    odd = "out of the ordinary"
    broken = [quality(odd, 0.9, 0.1, "asked to show"), quality(odd, 0.03, 0.02, "not asked to show")]
    whole = [quality(odd, 0.2, 0.2, "asked to show"), quality(odd, 0.01, 0.02, "not asked to show")]
    far = quality("Frechet distance", 83.8, None, "not asked to show", control=302.0)
    parts = [quality("FEET_EXPOSED at 0.6", n, 9, "all") for n in (2, 3)]
    cat, ring = ({"concept": c, "quality": q} for c, q in (("cat", [*broken, far, parts[0]]), ("ring", [*whole, far])))
    said = closing(workspace, config(), result(cat, {**ring, "quality": [*ring["quality"], parts[1]]})).splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("domain") and "odd" in line)
    row = dict(zip(re.split(r" {2,}", said[at]), re.split(r" {2,}", said[at + 2]), strict=True))
    # Means over the two; a share in percent, a distance as it is.
    assert row == {
        "domain": "object", "method": "saeuron", "mean": "90.0", "odd": "55.0", "(odd)": "15.0", "odd others": "2.0",
        "(odd others)": "2.0", "Frechet": "83.8", "(Frechet)": "302",
    }  # fmt: skip
    assert any(line.startswith("object by saeuron: FEET_EXPOSED at 0.6 5 found (unedited 18)") for line in said)
    assert "cat: holds; harms none of 28 other concepts for certain; 90 % of its pictures" in said
    assert "  are odd (unedited 10)" in said
    assert [line for line in said if len(line) > 80 and not line.startswith(("next: ", "workspace: "))] == []


def test_distances_in_features_of_several_judges_have_no_mean(workspace: Workspace) -> None:
    far = [quality("Frechet distance", d, None, "not asked to show", control=302.0) for d in (83.8, 9.0)]
    rows = [{"concept": "cat", "quality": far[:1]}, {"concept": "ring", "quality": [{**far[1], "extractor": "clip-2"}]}]
    said = closing(workspace, config(), result(*rows)).splitlines()
    at = next(i for i, line in enumerate(said) if line.startswith("domain") and "Frechet" in line)
    assert said[at + 2].split()[-2:] == ["-", "-"]
    assert "40 images, canvas-1; 40 images, clip-2" in " ".join(" ".join(said).split())


def test_verdicts_are_counted() -> None:
    words = ["holds", "failed", "holds", "cannot be judged", "weak"]
    assert verdicts({"verdict": word} for word in words) == "2 hold, 1 weak, 1 failed, 1 cannot be judged"


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        (
            {"style": "none", "object": "none"},
            "no judge for style, object: nothing is judged, figures that need",
        ),
        ({"style": "none"}, "no judge for style: its pictures are not judged, figures that need it"),
        ({}, None),
    ],
)
def test_what_was_not_judged_is_said(workspace: Workspace, judges: dict[str, str], said: str | None) -> None:
    lines = closing(workspace, config(**judges), result({"concept": "cat"})).splitlines()
    found = [line for line in lines if line.startswith("no judge")]
    assert len(found) == 1 and found[0].startswith(said) if said else found == []


@pytest.mark.parametrize(
    ("verdict", "method", "strict", "code"),
    [
        ("failed", "saeuron", True, 1),
        ("failed", "saeuron", False, 0),
        ("weak", "saeuron", True, 0),
        # A control is there to fail.
        ("failed", "untrained", True, 0),
    ],
)
def test_a_failed_removal_is_an_error_where_that_is_asked_for(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, verdict: str, method: str, strict: bool, code: int
) -> None:
    found = result({"concept": "cat", "method": method, "verdict": verdict})
    (workspace.root / runs.CONFIG).write_text("{}")
    monkeypatch.setattr("flows.work.check_all", lambda *_: None)
    monkeypatch.setattr("flows.walk.finds_everything", lambda *_: True)
    monkeypatch.setattr("flows.pipeline.pipeline", lambda *_: found)
    arguments = (workspace.root, None, "cpu", 1, False, True)
    with pytest.raises(typer.Exit) if code else contextlib.nullcontext() as end:
        run_pipeline(config(), *arguments, keep_config=False, strict=strict)
    assert (end.value.exit_code if code else 0) == code
