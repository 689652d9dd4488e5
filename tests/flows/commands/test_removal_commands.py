"""`saeuron removal export`: the file, and a card with the figures that were measured, or the word that none were."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from saeuron.figures.metrics import Metric
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from storage import Workspace
from storage.identity import artifact_id
from storage.tables import METRICS, table, write_table
from tests.end_to_end.process import run_here

REMOVAL = f"removal_v2_{20 * 'a'}"
HOOK = "unet.up_blocks.0.attentions.1"


def removal(model: str = "canvas") -> Removal:
    zeros = torch.zeros
    edit = LatentEdit(
        HOOK, "both", f"sae_v2_{20 * 'b'}", torch.tensor([500, 10]), torch.tensor([3, 7, 9]), zeros(2, 3), zeros(2, 3),
        zeros(3, 8), zeros(3), zeros(3, 8), zeros(8), zeros(3),
    )  # fmt: skip
    provenance = {"model": model, "model_id": "c0ffee", "removal_id": REMOVAL, "reference": {"neon": "x", "dots": "y"}}
    return Removal("neon", "style", "saeuron", {"n": 2, "gamma": -1.5}, (edit,), provenance)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    opened = Workspace.open(tmp_path / "w")
    removal().save(opened.removals / "neon.saeuron.safetensors")
    return opened


def evaluate(workspace: Workspace, value: float, seeds: int) -> None:
    """Commit figures of the removal."""
    metrics = [
        Metric("UA", value, 0.8, 0.95, 0.02, 0.01, 0.04, 60, 12, "asked to show neon"),
        Metric("IRA", None, None, None, 0.99, 0.98, 1.0, 240, 48, "asked to show another style"),
    ]
    name = artifact_id("evaluation", 1, {"value": value})
    common = {
        "domain": "style", "concept": "neon", "method": "saeuron", "seeds": seeds,
        "split": "test", "removal_id": REMOVAL, "judge": "canvas", "judge_id": "canvas-1",
    }  # fmt: skip
    write_table(workspace.folder(name) / "metrics.parquet", table([{**common, **asdict(m)} for m in metrics], METRICS))
    lost = {"harmed": "dots", "domain": "style", "before": 1.0, "after": value / 3, "low": 0.4, "high": 0.9, "n": 20}
    summary = {"verdict": "weak", "reason": "dots lost 70 points", "harmed": [lost] if seeds > 1 else [], "others": 7}
    workspace.commit(name, config={"value": value}, inputs={"removal": REMOVAL}, summary=summary, seconds=1)


def test_the_card_holds_the_newest_figures(workspace: Workspace, tmp_path: Path) -> None:
    evaluate(workspace, 0.5, seeds=1)
    evaluate(workspace, 0.9, seeds=5)
    out = tmp_path / "out"
    done = run_here("removal", "export", "neon", "--out", out, "-w", workspace.root)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("next: saeuron generate ")
    assert (out / "neon.saeuron.safetensors").read_bytes() == (
        workspace.removals / "neon.saeuron.safetensors"
    ).read_bytes()
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"][0] == "concept-unlearning" and "base_model" not in front
    for words in (
        "| UA | 90.0 | 80.0 to 95.0 | 2.0 | 1.0 to 4.0 | 60 | 12 | show neon |",
        "| IRA | - | - | 99.0 | 98.0 to 100.0 | 240 | 48 | show another style |",
        "Test prompts, 5 images a prompt", "| style `neon` |", "`canvas` (content c0ffee)", "| gamma -1.5, n 2 |",
        f"| `{HOOK}` | `sae_v2_{20 * 'b'}` | 3 | both |", "2 concepts: dots, neon", REMOVAL,
        'Removal.load("neon.saeuron.safetensors")', "arXiv 2501.18052",
    ):  # fmt: skip
        assert words in card, words
    assert "50.0 |" not in card


def test_the_card_names_the_verdict_and_what_is_harmed(workspace: Workspace, tmp_path: Path) -> None:
    evaluate(workspace, 0.5, seeds=1)
    for out, seeds, said in (
        ("one", 1, "Of 7 other concepts, none loses more than chance explains (95 %)."),
        ("two", 5, "| dots | style | 100.0 | 30.0 | 40.0 | 90.0 | 20 |"),
    ):
        evaluate(workspace, 0.9 if seeds > 1 else 0.5, seeds=seeds)
        assert run_here("removal", "export", "neon", "--out", tmp_path / out, "-w", workspace.root).code == 0
        card = (tmp_path / out / "README.md").read_text()
        assert "\nVerdict: **weak**; dots lost 70 points.\n" in card and said in card
        assert ("## What it harms" in card) == (seeds > 1)


def test_without_figures_it_says_so(workspace: Workspace, tmp_path: Path) -> None:
    done = run_here("removal", "export", "neon", "--out", tmp_path / "out", "-w", workspace.root)
    assert done.out.splitlines()[-1] == f"next: saeuron evaluate neon -w {workspace.root}"
    assert "Nothing was measured" in (tmp_path / "out" / "README.md").read_text()
    done = run_here("removal", "export", "neon", "--out", tmp_path / "out", "-w", workspace.root, "--json")
    assert json.loads(done.out)["measured"] is False


def test_a_model_of_the_hub_is_named_and_a_folder_of_this_disk_is_not(workspace: Workspace, tmp_path: Path) -> None:
    for model, front, shown in (
        ("owner/sd", "owner/sd", "owner/sd"),
        ("owner/sd@v1", "owner/sd", "owner/sd@v1"),
        (str(tmp_path / "my-sd"), None, "my-sd"),
    ):
        removal(model).save(workspace.removals / "neon.saeuron.safetensors")
        run_here("removal", "export", "neon", "--out", tmp_path / "out", "-w", workspace.root)
        card = (tmp_path / "out" / "README.md").read_text()
        assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == front
        assert f'load_pipeline("{shown}")' in card and str(tmp_path) not in card


def test_an_export_that_cannot_be_made_is_refused_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    done = run_here("removal", "export", "neo", "--out", tmp_path / "out", "-w", workspace.root)
    assert done.code == 2 and "did you mean 'neon'" in done.complaint
    done = run_here("removal", "export", "neon", "--out", workspace.removals.parent, "-w", workspace.root)
    assert done.code == 2 and "holds other things" in done.complaint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    done = run_here("removal", "export", "neon", "--out", tmp_path / "mine", "-w", workspace.root)
    assert done.code == 2 and "holds other things (README.md)" in done.complaint
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


def test_generate_refuses_before_a_model_is_loaded(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tasks.engine.model.pipeline", refuse)
    out = ("--out", tmp_path / "a.png")
    done = run_here("generate", "x", "--guidance", "inf", *out, "-w", workspace.root)
    assert done.code == 2 and "--guidance inf: expected a finite number" in done.complaint
    done = run_here("generate", "x", *out, "-w", tmp_path / "none")
    assert done.code == 2 and "there is no such folder" in done.complaint
    monkeypatch.setenv("SAEURON_WORKSPACE", str(tmp_path / "none"))
    assert "there is no such folder" in run_here("generate", "x", *out).complaint
