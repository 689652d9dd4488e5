"""What a run derives from statistics, asked of workspaces whose artifacts are manifests and a few bytes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.config import load
from saeuron.canvas.vocabulary import STYLES
from saeuron.config import ConceptConfig, RunConfig
from storage import Workspace
from storage.statistics.packs import LOOSE
from tasks.registry import concepts, runs
from tests.end_to_end.process import TINY
from tests.flows.test_plan import made_up, plan

DERIVED = ("totals", "packs")


def config(styles: int) -> RunConfig:
    base = load(str(TINY))
    names = ("stripes", *(name for name in STYLES if name != "stripes"))[:styles]
    domains = {**base.domains, "style": base.domains["style"].model_copy(update={"concepts": names})}
    return base.model_copy(update={"domains": domains})


def todo(root: Path, config: RunConfig) -> Counter[str]:
    return Counter(p.stage for p in plan(config, root) if not p.cached and p.stage in DERIVED)


@pytest.mark.parametrize(("styles", "packs"), [(LOOSE - 1, 0), (LOOSE, 2), (LOOSE + 1, 2)])
def test_a_pack_is_made_of_many_concepts(tmp_path: Path, styles: int, packs: int) -> None:
    """Styles have two hookpoints, objects, of which there are three, have one."""
    expected = Counter({"totals": 3, "packs": packs})
    assert todo(tmp_path / "w", config(styles)) == +expected


def test_one_more_concept_costs_its_own_totals_and_no_pack(tmp_path: Path) -> None:
    chosen = config(LOOSE + 1)
    workspace = made_up(tmp_path / "w", chosen)
    assert todo(workspace.root, chosen) == Counter()
    known = {p.id for p in plan(chosen, workspace.root) if p.stage == "packs"}
    assert len(known) == 2, "packs that are in use are part of a run"
    runs.remember(workspace, chosen)
    for i in range(LOOSE):
        new = ConceptConfig(name=f"new {i}", domain="style", templates=dict(chosen.prompts.templates))
        concepts.add(workspace, chosen, new)
        # The eighth makes the next pack, which leaves the larger one as it is.
        expected = Counter({"totals": 2, "packs": 2 if i == LOOSE - 1 else 0})
        assert todo(workspace.root, chosen) == +expected, i
        made_up(workspace.root, chosen)
    used = {p.id: p for p in plan(chosen, workspace.root) if p.stage == "packs"}
    assert known < used.keys() and len(used) == 4 and all(p.cached for p in used.values())


def test_totals_start_from_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(4)
    workspace: Workspace = made_up(tmp_path / "w", chosen)
    before = {p.label: p.id for p in plan(chosen, workspace.root) if p.stage == "totals"}
    concepts.add(workspace, chosen, ConceptConfig(name="new", domain="style", templates=dict(chosen.prompts.templates)))
    asked = []
    from flows.plan import Plan

    step = Plan.step

    def watched(self: Plan, task: Any, job: Any, *args: int, prepare: Any = None) -> Any:
        asked.append(prepare(job) if prepare and job.stage == "totals" else job)
        return step(self, task, job, *args, prepare=prepare)

    monkeypatch.setattr(Plan, "step", watched)
    plan(chosen, workspace.root)
    new = {job.label: job for job in asked if job.stage == "totals" and not workspace.has(job.id)}
    assert len(new) == 2
    for label, job in new.items():
        assert job.base == before[label] and len(job.joined) == 1 and not job.left and len(job.scores) == 5
