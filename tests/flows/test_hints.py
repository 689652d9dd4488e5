"""Commands that are shown can be pasted into a shell as they are."""

import re
import shlex
from pathlib import Path

import pytest

from flows.closing import closing
from flows.hints import at, command
from flows.summary import concept_page, status_page
from flows.upkeep import gc, verify
from saeuron.config import RunConfig
from storage import Workspace
from storage.identity import artifact_id
from tasks.registry import runs
from tests.end_to_end.process import run_here
from tests.sae_workspace import build

FLOWS = Path(__file__).parents[2] / "flows"
NAME = "soft light/dusk"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "my work $HOME")


def next_of(lines: list[str], workspace: Workspace) -> list[str]:
    """The words of the last line as a shell reads them, without `saeuron` and the option that names the workspace."""
    assert lines[-1].startswith("next: saeuron ")
    words = shlex.split(lines[-1])
    assert words[-2:] == ["-w", str(workspace.root)]
    return words[2:-2]


def test_words_and_places_are_quoted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    assert command("evaluate", NAME) == "saeuron evaluate 'soft light/dusk'"
    assert command("latent", "show", "sae_v2_0", 3, workspace=Path("a b")) == (
        f"saeuron latent show sae_v2_0 3 -w {shlex.quote(str(workspace.root / 'a b'))}"
    )
    assert at(Path("workspace")) == at(Workspace(workspace.root / "workspace")) == ""
    assert at(workspace) == f" -w '{workspace.root}'"


def test_the_end_of_a_run(workspace: Workspace) -> None:
    config = RunConfig.model_validate(
        {
            "domains": {"style": {"concepts": [NAME, "neon"], "hookpoints": ["unet.mid"]}},
            "prompts": {"templates": {"train": ["A picture in {style} style."]}},
        }
    )
    result = {
        "evaluations": [
            {
                "domain": "style",
                "concept": NAME,
                "method": "saeuron",
                "images": 4,
                "metrics": {},
                "value": None,
                "verdict": "cannot be judged",
                "reason": "no judge said whether it is gone",
                "harmed": [],
                "others": 0,
            }
        ],
        "comparisons": [],
        "removals": [{"concept": NAME, "method": "saeuron", "settings": {"n": 4, "gamma": -2.0}}],
        "failures": [],
        "counts": {"made": 1, "cached": 0, "failed": 0},
    }
    said = closing(workspace, config, result).splitlines()
    prompt = f"A picture in {NAME} style."
    assert next_of(said, workspace) == ["generate", prompt, "--remove", NAME, "--out", "image.png"]
    assert len([line for line in said if line.startswith("No control was run")]) == 1
    about = {"domain": "style", "method": "saeuron", "control": "untrained", "concepts": (NAME, "neon"), "n": 126}
    result["comparisons"] = [
        about | {"difference": 0.123, "low": 0.0911, "high": 0.154, "beats": True},
        about | {"difference": 0.02, "low": -0.01, "high": 0.05, "beats": False, "concepts": ("neon",)},
        about | {"difference": -0.2, "low": -0.3, "high": -0.1, "beats": False},
        about | {"difference": 0.2, "low": 0.1, "high": 0.3, "beats": False, "n_differ": 4},
        about | {"difference": None, "low": None, "high": None, "beats": False},
    ]
    told = " ".join(closing(workspace, config, result).split())
    for line in (
        "style: saeuron beats untrained by 12.3 points (95 % 9.1 to 15.4, 2 concepts, 126 images)",
        "style: saeuron does not beat untrained: +2.0 points (95 % -1.0 to 5.0, 1 concept, 126 images)",
        "style: saeuron does not beat untrained, and is worse: -20.0 points "
        "(95 % -30.0 to -10.0, 2 concepts, 126 images)",
        "style: saeuron does not beat untrained: +20.0 points "
        "(95 % 10.0 to 30.0, 2 concepts, 126 images; only 4 prompts differ)",
        "style: saeuron cannot be compared with untrained: an image was not judged (2 concepts, 126 images)",
    ):
        assert line in told


def test_hints_of_upkeep_commands_are_quoted(workspace: Workspace) -> None:
    stray = workspace.root / "runs" / "stray"
    assert status_page(workspace, deep=False)["lines"][-1].startswith("damaged: none")
    garbage = gc.Garbage("temporary", "", stray, 1)
    assert next_of([gc.page(workspace, [garbage], dry=True).splitlines()[-1]], workspace) == ["gc"]
    lost = verify.Damage("bytes", stray, "a", "b", command("evaluate", NAME))
    [again] = verify.commands(workspace, [lost])
    assert shlex.split(again) == ["saeuron", "evaluate", NAME, "-w", str(workspace.root)]


def test_a_concept_whose_name_holds_a_space(workspace: Workspace) -> None:
    config = {"domains": {"style": {"concepts": [NAME, "neon"], "hookpoints": ["unet.mid"]}}}
    runs.remember(workspace, RunConfig.model_validate({**config, "prompts": {"templates": {"train": ["{style}"]}}}))
    assert next_of(concept_page(workspace, NAME)["lines"], workspace) == ["evaluate", NAME]
    listed = run_here("concept", "list", "-w", workspace.root).out.splitlines()
    assert next_of(listed, workspace) == ["concept", "show", "NAME"]


def test_lists_of_runs_and_of_removals_end_with_a_command(tmp_path: Path, tiny_model_folder: Path) -> None:
    workspace = build(tmp_path / "my work", tiny_model_folder)
    runs.start(workspace, "pipeline", runs.remembered(workspace))
    assert next_of(run_here("runs", "-w", workspace.root).out.splitlines(), workspace) == ["report", "RUN"]
    # There is none to go on with.
    assert "next: " not in run_here("removal", "list", "-w", workspace.root).out
    name = artifact_id("removal", 1, {})
    workspace.folder(name).mkdir(parents=True)
    about = {"concept": "neon", "method": "uce", "domain": "style"}
    workspace.commit(name, config={}, inputs={}, summary=about, seconds=0)
    said = run_here("removal", "list", "-w", workspace.root).out.splitlines()
    assert next_of(said, workspace) == ["generate", "PROMPT", "--remove", "CONCEPT"]


def test_no_command_is_put_together_by_hand() -> None:
    for path in FLOWS.rglob("*.py"):
        found = re.findall(r".*(?:next: saeuron|saeuron [^`\"\n]*\{|-w \{).*", path.read_text())
        assert not [line for line in found if path.name != "hints.py"], (path, found)
