"""The page about a concept: verdict and damage of each evaluation, within 80 columns."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from saeuron.config import RunConfig
from storage import Workspace
from storage.identity import artifact_id
from tasks.registry import runs
from tests.end_to_end.process import run_here

LONG = "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    opened = Workspace.open(tmp_path / "w")
    domains = {"object": {"concepts": ["cat", "ring", "moon"], "hookpoints": [LONG]}}
    templates = {"train": ["A picture of {object}."]}
    runs.remember(opened, RunConfig.model_validate({"domains": domains, "prompts": {"templates": templates}}))
    commit(opened, "removal", settings={"n": 2, "gamma": -1.0}, latents=1, hookpoints=[LONG, LONG.replace("0", "1")])
    return opened


def commit(workspace: Workspace, stage: str, **summary: Any) -> None:
    summary = {"domain": "object", "concept": "cat", "method": "saeuron"} | summary
    workspace.commit(artifact_id(stage, 1, summary), config={}, inputs={}, summary=summary, seconds=0)


def evaluate(workspace: Workspace, **more: Any) -> None:
    figure = {"value": 1.0, "unedited": 0.0, "low": 0.758, "high": 1.0}
    commit(workspace, "evaluation", metrics={"UA": figure}, images=216, value=0.9, **more)


def shown(workspace: Workspace) -> list[str]:
    done = run_here("concept", "show", "cat", "-w", workspace.root)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    return lines


def test_victims_stand_on_the_page_of_a_concept(workspace: Workspace) -> None:
    lost = {"domain": "object", "before": 1.0, "low": 0.587, "high": 1.0, "n": 12}
    harmed = [{"harmed": "ring", "after": 0.0, **lost}, {"harmed": "moon", "after": 0.125, **lost}]
    evaluate(workspace, verdict="weak", reason=f"IRA lost {30 * 'much '}", harmed=harmed, others=28)
    lines = shown(workspace)
    assert "verdict: weak. IRA lost much much" in "\n".join(lines)
    start = lines.index("harms 2 of 28 other concepts, the worst first:")
    assert lines[start + 1].split() == [
        "harmed",
        "domain",
        "unedited",
        "removed",
        "lost",
        "at",
        "least",
        "at",
        "most",
        "images",
    ]
    assert [line.split() for line in lines[start + 3 : start + 5]] == [
        ["ring", "object", "100.0", "0.0", "58.7", "100.0", "12"],
        ["moon", "object", "100.0", "12.5", "58.7", "100.0", "12"],
    ]
    assert any("1 latent at" in line for line in lines)
    listed = run_here("concept", "list", "-w", workspace.root, "--json").out
    assert [row["verdict"] for row in json.loads(listed)] == ["weak", None, None]


def test_without_victims_it_says_so(workspace: Workspace) -> None:
    evaluate(workspace, verdict="holds", reason="", harmed=[], others=28)
    lines = shown(workspace)
    assert "verdict: holds" in lines and "harms none of 28 other concepts for certain" in lines


def test_a_long_name_of_a_method_makes_no_long_line(workspace: Workspace) -> None:
    evaluate(workspace, method="gated_uce_untrained", verdict="holds", reason="", harmed=[], others=28)
    assert "by gated_uce_untrained, 216 images; figures in percent:" in " ".join(" ".join(shown(workspace)).split())


def test_an_evaluation_of_an_earlier_version_has_no_verdict(workspace: Workspace) -> None:
    evaluate(workspace)
    assert not any("verdict" in line or "harms" in line for line in shown(workspace))


def test_removals_to_use_stand_before_controls(workspace: Workspace) -> None:
    about = {"settings": {"n": 2}, "latents": 1, "hookpoints": [LONG]}
    for method in ("a_control", "untrained", "steering"):
        commit(workspace, "removal", method=method, **about)
        evaluate(workspace, method=method, verdict="weak", reason="", harmed=[], others=28)
    evaluate(workspace, verdict="holds", reason="", harmed=[], others=28)
    workspace.removals.mkdir()
    for method in ("saeuron", "steering"):
        (workspace.removals / f"cat.{method}.safetensors").touch()
    text = " ".join(" ".join(shown(workspace)).split())
    for kind in ("removal_v1", "evaluation_v1"):
        order = re.findall(rf"{kind}_\w+ by (\w+)", text)
        assert {*order[:2]} == {"saeuron", "steering"} and {*order[2:]} == {"a_control", "untrained"}, order
