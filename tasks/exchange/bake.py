"""A removal folded into a folder with a whole diffusers pipeline."""

import os
import shutil
from pathlib import Path

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.methods.bake import bake, check
from saeuron.methods.removal import Removal
from saeuron.pipelines.loading import load_pipeline
from storage import Workspace
from tasks.registry import runs
from tasks.registry.removals import place


def bake_removal(workspace: Path, name: str, out: Path) -> Removal:
    """Write the workspace's model without a concept to a new or empty folder, and return the removal.

    Raises:
        ConfigError: the folder holds something, or a part of the removal cannot be folded; nothing is written then.
        UnknownName: there is no such removal.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already; give a new or empty folder.")
    path = place(workspace, name)
    removal = Removal.load(path)
    if path == Path(name):
        model = ModelConfig(spec=removal.provenance.get("model", "canvas"))
    else:
        model = runs.remembered(Workspace.open(workspace, create=False)).model
    # Most refusals need no model, which takes long to load.
    check(removal)
    pipe = load_pipeline(model.spec)
    bake(pipe, removal)
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    pipe.save_pretrained(aside, safe_serialization=True)
    for file in aside.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    if out.exists():
        out.rmdir()
    aside.rename(out)
    return removal
