"""Removals where people look for them: their names, and which artifact each is a copy of."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from storage import Workspace
from storage.identity import artifact_id
from storage.published import Published, header, in_use, published, published_name, read
from storage.verify import ids_in


def save(path: Path, concept: str, method: str, removal_id: str) -> None:
    about = {"concept": concept, "method": method, "provenance": {"removal_id": removal_id}}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.zeros(5, np.float32)}, path, metadata={"json": json.dumps(about)})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


@pytest.mark.parametrize(
    ("concept", "name"),
    [
        ("neon", "neon.saeuron"),
        ("line art", "line art.saeuron"),
        ("../../escaped", "%2E.%2F..%2Fescaped.saeuron"),
        ("a.b", "a.b.saeuron"),
        ("caf\u00e9", "caf%C3%A9.saeuron"),
        ("'\n\"", "%27%0A%22.saeuron"),
        ("CON", "%43ON.saeuron"),
        ("lpt1.x", "%6Cpt1.x.saeuron"),
        ("console", "console.saeuron"),
        (" a ", "%20a%20.saeuron"),
    ],
)
def test_a_concept_is_data_in_a_file_name(concept: str, name: str) -> None:
    assert published_name(concept, "saeuron") == name


def test_long_names_are_cut_and_stay_apart() -> None:
    one, two = (published_name("x" * 300 + end, "saeuron") for end in "ab")
    assert one != two and len(one) < 200


def test_the_removal_in_use_is_the_one_that_was_copied_last(workspace: Workspace) -> None:
    made = []
    for i in (1, 2):
        name = artifact_id("removal", 1, {"i": i})
        save(workspace.folder(name) / "removal.safetensors", "cat", "saeuron", name)
        about = {"concept": "cat", "method": "saeuron"}
        made.append(workspace.commit(name, config={"i": i}, inputs={}, summary=about, seconds=0))
    assert in_use(workspace, made) == {}
    place = workspace.removals / "cat.saeuron.safetensors"
    place.parent.mkdir(exist_ok=True)
    for manifest in made:
        place.write_bytes((workspace.folder(manifest.id) / "removal.safetensors").read_bytes())
        assert in_use(workspace, made) == {("cat", "saeuron"): manifest.id}
        assert published(workspace) == {place: Published("cat", "saeuron", manifest.id)}
    place.write_bytes(place.read_bytes()[:-1])
    assert in_use(workspace, made) == {} and published(workspace) == {}


def test_a_file_that_is_no_removal_says_nothing(tmp_path: Path) -> None:
    save_file({"x": np.zeros(5, np.float32)}, tmp_path / "sae.safetensors", metadata={"json": "{}"})
    (tmp_path / "text.safetensors").write_text("hello, this is no tensor file")
    for name in ("sae.safetensors", "text.safetensors", "missing.safetensors"):
        assert read(tmp_path / name) is None


def test_the_header_of_a_removal(tmp_path: Path) -> None:
    path, name = tmp_path / "a.safetensors", artifact_id("removal", 1, {})
    save_file({"x": np.zeros(5, np.float32)}, path, metadata={"json": f'{{"removal_id": "{name}"}}'})
    text = header(path)
    assert text is not None and ids_in(text) == {name}
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:30], b"", whole.replace(b"data_offsets", b"data_offsetz"), b"\xff" * 90):
        path.write_bytes(broken)
        assert header(path) is None
