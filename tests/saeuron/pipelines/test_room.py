"""What differs between families of pipelines is in `saeuron/pipelines/`: no other code reaches for a denoiser."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
DENOISERS = {"unet", "transformer"}
OWN = ("saeuron/pipelines/", "saeuron/canvas/")
"""Folders that may name a denoiser: the families, and the models that this project builds and trains."""


def named(path: Path) -> list[str]:
    """Places in a file that read a denoiser from a pipeline, or a pipeline's class from model_index.json."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        attribute = isinstance(node, ast.Attribute) and node.attr in DENOISERS
        text = isinstance(node, ast.Constant) and node.value in ("_class_name", *DENOISERS)
        if attribute or text:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    return found


def test_only_the_families_know_a_denoiser_by_its_name():
    files = [f for top in ("saeuron", "tasks", "flows", "storage") for f in (ROOT / top).rglob("*.py")]
    outside = [f for f in files if not f.relative_to(ROOT).as_posix().startswith(OWN)]
    assert [place for f in outside for place in named(f)] == []


def test_the_search_finds_a_denoiser():
    assert named(ROOT / "saeuron" / "canvas" / "training.py")
    assert named(ROOT / "saeuron" / "pipelines" / "stable_diffusion.py")
