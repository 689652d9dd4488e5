"""Which removal a name means."""

from pathlib import Path

import pytest

from saeuron.errors import ConfigError, UnknownName
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from storage import Workspace
from tasks.generate import file_of
from tasks.registry import runs
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
