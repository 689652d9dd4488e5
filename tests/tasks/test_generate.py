"""Which removal a name means."""

from pathlib import Path

import pytest

from flows.audit import removals
from saeuron.errors import ConfigError, UnknownName
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from storage import Workspace
from storage.errors import ArtifactDamaged
from storage.identity import artifact_id
from tasks.generate import find
from tasks.registry import runs
from tasks.registry.removals import file_of
from tests.sae_workspace import build


@pytest.fixture
def workspace(tmp_path: Path, tiny_model_folder: Path) -> Workspace:
    """Two removals of one concept, and one of another."""
    made = build(tmp_path / "w", tiny_model_folder)
    for concept, method in (("neon", "negative_prompt"), ("neon", "uce"), ("dots", "uce")):
        removal = Removal(concept, "style", method, {}, (Call({"negative_prompt": concept}),))
        removal.save(made.removals / f"{concept}.{method}.safetensors")
    return made


def test_of_several_removals_the_one_by_the_first_method_of_the_run_is_meant(workspace: Workspace) -> None:
    config = runs.remembered(workspace)
    assert file_of(workspace, "neon.uce").name == "neon.uce.safetensors"
    assert file_of(workspace, "dots").name == "dots.uce.safetensors"
    with pytest.raises(ConfigError, match=r"'neon' has 2 removals; give one of neon\.negative_prompt, neon\.uce"):
        file_of(workspace, "neon")
    runs.remember(workspace, config.model_copy(update={"method": ("uce", "negative_prompt")}))
    assert file_of(workspace, "neon").name == "neon.uce.safetensors"
    with pytest.raises(UnknownName, match="did you mean 'neon'"):
        file_of(workspace, "noen")


def test_a_removal_that_is_damaged_is_said_to_be_so(workspace: Workspace) -> None:
    for name in ("neon.uce", "dots.uce"):
        (workspace.removals / f"{name}.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactDamaged, match=r"dots\.uce\.safetensors is damaged: .*saeuron verify --deep --repair"):
        file_of(workspace, "dots")
    # The other method's removal does not stand in for it.
    config = runs.remembered(workspace)
    runs.remember(workspace, config.model_copy(update={"method": ("uce", "negative_prompt")}))
    with pytest.raises(ArtifactDamaged, match=r"neon\.uce"):
        file_of(workspace, "neon")
    assert file_of(workspace, "neon.negative_prompt").exists()


def test_a_concept_without_a_removal_and_a_control(workspace: Workspace) -> None:
    (workspace.removals / "dots.uce.safetensors").unlink()
    [concept, *_] = [c for d in runs.remembered(workspace).domains.values() for c in d.concepts if c != "neon"]
    with pytest.raises(ConfigError, match=rf"^concept '{concept}' has no removal here; .*saeuron remove {concept}$"):
        file_of(workspace, concept)
    with pytest.raises(ConfigError, match=f"^concept '{concept}' has no removal here"):
        removals(workspace, concept, [])
    name = artifact_id("removal", 1, {})
    workspace.folder(name).mkdir(parents=True)
    about = {"concept": "neon", "method": "untrained"}
    workspace.commit(name, config={}, inputs={}, summary=about, seconds=0)
    with pytest.raises(
        ConfigError, match=r"'neon.untrained' is only measured, .*one of neon.negative_prompt, neon.uce"
    ):
        file_of(workspace, "neon.untrained")


def test_a_removal_that_is_named_twice_and_paths_that_are_none(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'dots' is given twice"):
        find(workspace.root, ["dots", "dots"])
    with pytest.raises(ConfigError, match=r"'dots' and 'dots\.uce' are the same removal"):
        find(workspace.root, ["dots", "dots.uce"])
    with pytest.raises(ConfigError, match=r"no such file: /nope\.safetensors"):
        find(workspace.root, ["/nope.safetensors"])
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder"):
        find(workspace.root, [str(tmp_path)])
