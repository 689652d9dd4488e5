"""Workspaces to test on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.identity import artifact_id
from storage.manifests import Manifest
from storage.statistics.sums import FIXED_POINT, Sums, write_statistics
from storage.workspace import Workspace

Score = Callable[..., Manifest]


def random_sums(seed: int, timesteps: tuple[int, ...] = (40, 20), latents: int = 7, scale: float = 1.0) -> Sums:
    """Sums such as a few images would give."""
    rng = np.random.default_rng(seed)
    shape = (len(timesteps), latents)
    values = rng.random(shape) * rng.integers(0, 2, shape) * scale
    return Sums(
        timesteps=np.array(timesteps, np.int32),
        fires=rng.integers(0, 99, shape).astype(np.uint64),
        image_fires=rng.integers(0, 9, shape).astype(np.uint32),
        sum_fixed=np.rint(values * 100 * FIXED_POINT).astype(np.int64),
        sumsq_fixed=np.rint(values**2 * 100 * FIXED_POINT).astype(np.int64),
        max=values.astype(np.float32),
        n_rows=rng.integers(50, 100, len(timesteps)).astype(np.uint64),
        n_images=rng.integers(1, 9, len(timesteps)).astype(np.uint32),
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    # A name with everything that a path, a glob or a SQL text could trip over.
    return Workspace.open(tmp_path / "it's [1] * work")


@pytest.fixture
def add(workspace: Workspace) -> Callable[..., str]:
    """Commit an artifact of the given files; returns its id."""

    def add(stage: str, summary: dict[str, Any], inputs: dict[str, Any] | None = None, **payload: Any) -> str:
        name = artifact_id(stage, 1, {"summary": summary, **payload})
        workspace.folder(name).mkdir(parents=True, exist_ok=True)
        workspace.commit(name, config={}, inputs=inputs or {}, summary=summary, seconds=0.5)
        return name

    return add


def commit_score(
    workspace: Workspace,
    concept: str,
    sums: dict[str, Sums],
    domain: str = "style",
    protocol: str = "p",
    version: int = 1,
) -> Manifest:
    """Commit a score artifact of one concept."""
    name = artifact_id("score", version, {"concept": concept, "domain": domain, "protocol": protocol})
    saes = []
    for sae_id, part in sums.items():
        write_statistics(workspace.folder(name) / f"of {sae_id}", part)
        saes.append({"sae_id": sae_id, "hookpoint": "unet.mid_block", "folder": f"of {sae_id}", "n_images": 3})
    summary = {"domain": domain, "concept": concept, "protocol": protocol, "model_id": "m", "half": "conditional"}
    return workspace.commit(name, config={}, inputs={}, summary=summary | {"saes": saes}, seconds=1.0)


@pytest.fixture
def score(workspace: Workspace) -> Score:
    return functools.partial(commit_score, workspace)
