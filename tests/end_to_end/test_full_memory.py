"""A GPU whose memory is full in the middle of a run, simulated: the exit code, what is kept, and how it goes on."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from saeuron.errors import FullMemory
from storage import Workspace
from storage.files import read_json
from tasks.engine import model
from tests.end_to_end.process import ids, run_here
from tests.saeuron.pipelines import tiny
from tests.tiny_clip import save_tiny_clip

pytestmark = pytest.mark.timeout(600)

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB.\nMore of it."
SPLITS = {"train": "A", "validation": "The", "test": "An image of"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run with four images in each stage, eight to test."""
    path = tiny.HOOKPOINT["sd"]
    domain = {"hookpoints": [path], "judge": f"clip:{save_tiny_clip(tmp_path / 'clip')}"}
    about = {
        "model": {"spec": str(tiny.save("sd", tmp_path / "model")), "steps": 2, "guidance": 3.0, "micro_batch": 8},
        "domains": {
            "style": {"concepts": ["neon", "dots"], **domain},
            "object": {"concepts": ["cat", "moon"], **domain},
        },
        "prompts": {"templates": {key: [f"{start} {{object}} in {{style}} style."] for key, start in SPLITS.items()}},
        "train": {"steps": 5, "k": 4, "expansion": 2, "batch": 64},
        "score": {"images": 2},
        "tune": {
            "concepts": ["neon"], "settings": {"saeuron": {"n": [8], "gamma": [-30.0]}}, "target_images": 2,
            "retained_images": 2,
        },
        "evaluate": {"seeds": 2},
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(json.dumps(about))
    return tmp_path / "my.yaml"


def test_what_was_made_is_kept_and_the_next_run_goes_on(
    config: Path, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, room, forward = tmp_path / "w", {"images": 100}, UNet2DConditionModel.forward

    def of_a_full_device(self: Any, sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        # From the first SAE on there is less room: another program has taken it.
        if len(sample) > 2 * room["images"] and list((root / "artifacts").glob("*/sae_*/manifest.json")):
            raise torch.OutOfMemoryError(FULL)
        return forward(self, sample, *args, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", of_a_full_device)
    words = ("run", config, "-w", root, "--threads", "1")

    room["images"] = 0
    with pytest.warns(FullMemory):
        done = run_here(*words)
    assert done.code == 2, done.err + done.out
    # Above it, only with the server of these tests, stands Prefect's own log.
    (said,) = done.err.rstrip().splitlines()[-1:]
    assert said.startswith("saeuron: memory is full with one image at a time (CUDA out of memory); take a smaller")
    assert said.endswith("what was finished is kept.")
    kept = ids(root)
    assert {name.split("_v")[0] for name in kept} == {"prompts", "capture", "sae"}
    before = {name: Workspace.open(root).manifest(name) for name in kept}

    # As much is free again as three images need: the batch that fits is tried and said, and nothing is made twice.
    room["images"] = 3
    model._load.cache_clear()  # in a process of its own nothing remembers how many fitted
    with pytest.warns(FullMemory) as warned:
        done = run_here(*words)
    assert done.code == 0, done.err + done.out
    told = [warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in warned]
    said = "saeuron: memory is full with {} images at once; going on with {} (model.micro_batch: {} says so from "
    expected = [said.format(full, fits, fits) + "the start)" for full, fits in ((8, 4), (4, 2))]
    assert [";".join(line.split(";")[:2]) for line in told] == expected
    assert f"{len(kept)} found in place, 0 failed" in done.out
    opened = Workspace.open(root)
    assert {name: opened.manifest(name) for name in kept} == before
    for manifest in opened.artifacts("images"):
        about = read_json(opened.folder(manifest.id) / model.SMALLER)
        assert about == {"micro_batch": 8, "smallest_drawn": 2, "same_bits": False}
    again = run_here(*words)
    assert again.code == 0 and "steps: 0 made" in again.out
