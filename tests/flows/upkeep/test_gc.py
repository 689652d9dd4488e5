"""What nothing refers to: found by the walk of a plan over artifacts that are manifests and a few bytes."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.config import load
from flows.upkeep import gc
from saeuron.errors import SaeuronError
from storage import Workspace
from storage.identity import artifact_id
from storage.manifests import Manifest
from tasks.registry import concepts, runs
from tests.end_to_end.process import TINY, run_here
from tests.flows.test_plan import made_up, plan

OTHER = "train.k=9"
"""A configuration that shares prompts, activations and judged unedited images with the remembered one."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations were run; the first is remembered."""
    root = tmp_path_factory.mktemp("gc") / "w"
    config = load(str(TINY))
    made_up(root, config)
    made_up(root, load(str(TINY), [OTHER]))
    runs.remember(Workspace.open(root), config)
    return root


@pytest.fixture
def both(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


def artifacts(found: list[gc.Garbage]) -> set[str]:
    return {g.artifact for g in found if g.artifact and not g.left}


def of(workspace: Workspace, *settings: str) -> set[str]:
    """What a run of a configuration finds."""

    return {p.id for p in plan(load(str(TINY), list(settings)), workspace.root) if p.cached}


def made(workspace: Workspace, stage: str, config: dict[str, Any], **summary: Any) -> Manifest:
    name = artifact_id(stage, 1, config)
    workspace.folder(name).mkdir(parents=True)
    (workspace.folder(name) / "file").write_bytes(bytes(100))
    return workspace.commit(name, config=config, inputs={}, summary=summary, seconds=0)


def publish(workspace: Workspace, concept: str, **provenance: str) -> Path:
    path = workspace.removals / f"{concept}.saeuron.safetensors"
    path.parent.mkdir(exist_ok=True)
    about = {"concept": concept, "method": "saeuron", "provenance": provenance}
    save_file({"factor": np.zeros(3, np.float32)}, path, metadata={"json": json.dumps(about)})
    return path


def test_what_only_the_other_configuration_needs(both: Workspace) -> None:
    mine, other = of(both), of(both, OTHER)
    assert len(mine & other) == 7
    before = sorted(both.root.rglob("*"))
    found = gc.survey(both)
    assert other - mine <= artifacts(found) == set(both.folders()) - mine and not any(g.left for g in found)
    assert {g.kind for g in found} == {
        "sae",
        "score",
        "totals",
        "trials",
        "removal",
        "images",
        "judgements",
        "evaluation",
        "pictures",
    }
    assert sum(g.bytes for g in found) == sum(
        p.stat().st_size for i in artifacts(found) for p in both.folder(i).rglob("*")
    )
    assert sorted(both.root.rglob("*")) == before
    gc.collect(both)
    assert of(both) == mine and set(both.folders()) == mine and of(both, OTHER) == mine & other
    assert gc.survey(both) == []


class TestReferred:
    def test_what_a_published_removal_was_made_of(self, both: Workspace) -> None:
        prompts = made(both, "prompts", {"of": "elsewhere"})
        score = made(both, "score", {"prompts_id": prompts.id})
        removal = made(both, "removal", {"reference": {"cat": score.id}})
        lone = made(both, "score", {"of": "nobody"})
        mine = {prompts.id, score.id, removal.id}
        assert artifacts(gc.survey(both)) >= mine | {lone.id}
        publish(both, "cat", removal_id=removal.id)
        assert not artifacts(gc.survey(both)) & mine and lone.id in artifacts(gc.survey(both))
        # Its artifact may be gone: what it names is still what it was made of.
        both.delete(removal.id)
        publish(both, "cat", removal_id=removal.id, reference=score.id)
        assert not artifacts(gc.survey(both)) & mine

    def test_what_people_are_shown_of_it(self, both: Workspace) -> None:
        removal = made(both, "removal", {"of": "elsewhere"}, concept="cat")
        both.delete(removal.id)
        both.folder(removal.id).mkdir()
        publish(both, "cat", removal_id=removal.id)
        shutil.copy(both.removals / "cat.saeuron.safetensors", both.folder(removal.id) / "removal.safetensors")
        places = {"removal.safetensors": "removals/cat.saeuron.safetensors"}
        about = {"config": removal.config, "inputs": {}, "summary": removal.summary, "seconds": 0}
        both.commit(removal.id, **about, publishes=places)
        shown = []
        for seeds in (1, 5):
            shown.append(made(both, "evaluation", {"seeds": seeds, "removal_id": removal.id}, concept="cat").id)
            time.sleep(0.002)
        sheet = made(both, "pictures", {"of": "cat"}, concept="cat")
        (both.folder(sheet.id) / "file").rename(both.folder(sheet.id) / "sheet.png")
        about = {"config": sheet.config, "inputs": {}, "summary": sheet.summary, "seconds": 0}
        both.commit(sheet.id, **about, publishes={"sheet.png": "pictures/cat.saeuron_sheet.png"})
        both.pictures.mkdir()
        (both.pictures / "cat.saeuron_sheet.png").write_bytes(bytes(100))
        found = artifacts(gc.survey(both))
        assert shown[0] in found and shown[1] not in found and sheet.id not in found
        concepts.drop(both, runs.remembered(both), "cat")
        found = artifacts(gc.survey(both))
        assert {*shown, sheet.id, removal.id} <= found

    def test_what_other_commands_made_of_what_is_kept(self, both: Workspace) -> None:
        mine = of(both)
        ids = {i.split("_v")[0]: i for i in sorted(mine)}
        [lone] = [i for i in sorted(both.folders()) if i not in mine and i.startswith("sae")][:1]
        prompts = made(both, "prompts", {"of": "a diagnosis"})
        diagnoses = []
        for sae in (ids["sae"], lone):
            name = artifact_id("diagnosis", 1, {"sae_id": sae})
            both.folder(name).mkdir(parents=True)
            config = {"sae_id": sae, "prompts_id": prompts.id}
            both.commit(name, config=config, inputs={"sae": sae}, summary={}, seconds=0)
            diagnoses.append(name)
        found = artifacts(gc.survey(both))
        assert diagnoses[1] in found and not {diagnoses[0], prompts.id} & found
        both.delete(diagnoses[0])
        assert prompts.id in artifacts(gc.survey(both))

    def test_what_seems_older_than_what_it_was_made_of(self, both: Workspace) -> None:
        sae = next(i for i in sorted(of(both)) if i.startswith("sae"))
        configs = {"diagnosis": {"sae_id": sae}, "stability": {"of": "two of them"}}
        names = {stage: artifact_id(stage, 1, config) for stage, config in configs.items()}
        # By the clock, the one was there before what it was made of: the clock was set back in between.
        for stage, made_of in (("stability", names["diagnosis"]), ("diagnosis", sae)):
            both.folder(names[stage]).mkdir(parents=True)
            both.commit(names[stage], config=configs[stage], inputs={"of": made_of}, summary={}, seconds=0)
        assert not artifacts(gc.survey(both)) & set(names.values())

    def test_what_was_brought_from_elsewhere(self, both: Workspace) -> None:
        brought = made(both, "sae", {"weights": "0" * 64}, hookpoint="a", source="someone/somewhere")
        other = made(both, "sae", {"weights": "1" * 64}, hookpoint="a")
        found = artifacts(gc.survey(both))
        assert brought.id not in found and other.id in found

    def test_what_a_run_at_work_uses(self, both: Workspace) -> None:
        other = of(both, OTHER)
        with runs.living(both, "pipeline", load(str(TINY), [OTHER])):
            assert not artifacts(gc.survey(both)) & other
        assert other - of(both) <= artifacts(gc.survey(both))

    def test_what_was_made_on_another_kind_of_device(self, both: Workspace) -> None:

        on_gpu = {p.id: p for p in plan(load(str(TINY)), both.root, device="cuda")}
        capture, *_ = [p.id for p in on_gpu.values() if p.stage == "capture"]
        mine, *_ = both.artifacts("capture")
        both.folder(capture).mkdir()
        both.commit(capture, config={**mine.config, "device": "cuda"}, inputs={}, summary={}, seconds=0)
        assert capture not in of(both)
        assert capture not in artifacts(gc.survey(both))

    def test_what_is_damaged_cannot_be_judged(self, both: Workspace) -> None:
        name = both.folders()[0]
        (both.folder(name) / "file").unlink()
        before = both.folders()
        with pytest.raises(SaeuronError, match=r"damaged: 1 artifact; .*saeuron verify --repair"):
            gc.collect(both)
        assert both.folders() == before
        both.delete(name)
        publish(both, "cat", removal_id=name).write_bytes(b"x")
        with pytest.raises(SaeuronError, match=r"cat\.saeuron\.safetensors is damaged.*saeuron verify --repair"):
            gc.collect(both)

    def test_a_walk_that_fails_deletes_nothing(self, both: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**fields: object) -> None:
            raise ValueError("no such thing")

        monkeypatch.setattr("flows.stages.evaluate.EvaluateJob", refuse)
        before = both.folders()
        with pytest.raises(SaeuronError, match=r"cannot tell what a run refers to .*no such thing"):
            gc.collect(both)
        assert both.folders() == before


class TestDroppedConcepts:
    def test_their_copies_go_and_their_scores_stay_while_a_removal_needs_them(self, both: Workspace) -> None:
        gc.collect(both)
        config = runs.remembered(both)
        both.pictures.mkdir()
        for name in ("stripes", "neon"):
            publish(both, name)
            for kind in ("sheet", "scores"):
                (both.pictures / f"{name}.saeuron_{kind}.png").write_bytes(b"png")
        concepts.drop(both, config, "stripes")
        concepts.drop(both, config, "cat")
        found = gc.survey(both)
        assert sorted(g.path.name for g in found if g.kind == "copy") == [
            "stripes.saeuron.safetensors", "stripes.saeuron_scores.png", "stripes.saeuron_sheet.png",
        ]  # fmt: skip
        stages = [i.split("_v")[0] for i in artifacts(found)]
        # Both removals, and all that follows of them. The removal of neon is still to be computed against stripes, and
        # none against cat. The same holds of the totals with them.
        each = ["evaluation", "images", "judgements", "judgements", "pictures", "removal", "trials"]
        gone = [*2 * each, "score", "totals"]
        assert sorted(stages) == sorted(gone)
        assert [both.manifest(i).config["concept"] for i in artifacts(found) if i.startswith("score")] == ["cat"]
        gc.collect(both)
        assert sorted(p.name for p in both.removals.iterdir()) == ["neon.saeuron.safetensors"]

    def test_statistics_that_a_removal_was_computed_against_stay(self, both: Workspace) -> None:
        gc.collect(both)
        config, before = runs.remembered(both), set(both.folders())
        concepts.drop(both, config, "neon")
        assert {g.kind for g in gc.survey(both)} == {"totals"}
        concepts.refresh(both, config, "stripes")
        found = artifacts(gc.survey(both))
        stages = sorted(i.split("_v")[0] for i in found)
        gone = ["evaluation", "images", "judgements", "judgements", "pictures", "removal", "score", "totals", "totals"]
        assert stages == [*gone, "trials"] and found < before


class TestLeft:
    def test_what_a_process_is_at_work_on(self, both: Workspace) -> None:
        mine = of(both)
        gone = sorted(i for i in both.folders() if i not in mine)
        with both.lock(f"{gone[0]}_2"), both.lock(gone[1]):
            surveyed = {g.artifact: g.left for g in gc.survey(both)}
            assert [surveyed[i] for i in gone[:3]] == ["a process is at work on it"] * 2 + [""]
            gc.collect(both)
            assert sorted(set(both.folders()) - mine) == gone[:2]
        gc.collect(both)
        assert set(both.folders()) == mine

    def test_a_folder_without_a_manifest_for_a_day(self, both: Workspace) -> None:
        mine = of(both)
        young, old, wanted = (*sorted(i for i in both.folders() if i not in mine)[:2], sorted(mine)[0])
        for name in (young, old, wanted):
            (both.folder(name) / "manifest.json").unlink()
        past = time.time() - gc.YOUNG - 60
        for name in (old, wanted):
            os.utime(both.folder(name) / "file", (past, past))
        found = {g.artifact: g for g in gc.survey(both)}
        assert found[young].left == "half made, less than a day ago" and found[old].left == ""
        # A run of the remembered configuration goes on from there.
        assert wanted not in found
        gc.collect(both)
        assert both.folder(young).exists() and not both.folder(old).exists() and both.folder(wanted).exists()

    def test_nothing_is_begun_while_it_deletes(self, both: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        held = []
        monkeypatch.setattr(Workspace, "delete", lambda self, name: held.append(self.busy(runs.GATE)))
        gc.collect(both)
        assert held and all(held) and not both.busy(runs.GATE)


def test_what_was_set_aside_and_half_written(both: Workspace) -> None:
    gc.collect(both)
    folder = both.folder(both.folders()[0])
    aside = both.damaged / "20260101T000000" / "artifacts"
    aside.mkdir(parents=True)
    (aside / "x").write_bytes(bytes(50))
    (folder / ".00000.tar.damaged").write_bytes(bytes(30))
    (folder / ".a.tar.999999999.1.tmp").write_bytes(bytes(20))
    dead = both.locks / "20260101T000000-abcdef.lock"
    dead.touch()
    found = gc.collect(both)
    assert sorted((g.kind, g.bytes) for g in found) == [("damaged", 30), ("damaged", 50), ("lock", 0)]
    assert not any(both.damaged.iterdir()) and not dead.exists()
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_killed_at_any_point_it_is_finished_by_the_next(both: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    mine = of(both)
    keep = {p: p.read_bytes() for i in mine for p in both.folder(i).rglob("*") if p.is_file()}
    gone = set(both.folders()) - mine
    # Walked once: what is referred to does not change, and the walk is the slow part.
    referred = gc._referred(both, runs.remembered(both), {m.id: m for m in both.artifacts()})
    monkeypatch.setattr(gc, "_referred", lambda *args: referred)
    left = [0]

    def limited(true: Callable[..., None]) -> Callable[..., None]:
        def once(path: Path, *args: Any, **how: bool) -> None:
            if path.is_relative_to(both.root / "artifacts") and path.exists():
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            true(path, *args, **how)

        return once

    for name in ("unlink", "rmdir", "replace"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))
    rounds = 0
    while set(both.folders()) != mine:
        left[0] = 1 + rounds % 3
        with contextlib.suppress(Killed):
            gc.collect(both)
        rounds += 1
        assert both.problems() == [] and {p: p.read_bytes() for p in keep} == keep
    # Each folder takes four steps: its manifest's new name, the file, the manifest, the folder.
    assert rounds >= 4 * len(gone) / 3


class TestCommand:
    def test_says_what_would_go_and_what_went(self, both: Workspace) -> None:
        count = len(set(both.folders()) - of(both))
        done = run_here("gc", "--dry-run", "-w", both.root)
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[0].split() == ["what", "of", "MB", "path"]
        size = sum(g.bytes for g in gc.survey(both)) / 1e6
        assert lines[-2:] == [f"{count} would be deleted, {size:.2f} MB", f"next: saeuron gc -w {both.root}"]
        assert max(len(line) for line in lines[:-1]) <= 80
        busy = next(g.artifact for g in gc.survey(both) if g.kind == "score")
        with both.lock(busy):
            done = run_here("gc", "-w", both.root)
        assert done.code == 0
        assert done.out.splitlines()[-2].startswith(f"{count - 1} were deleted, ")
        assert done.out.splitlines()[-1] == f"left: {busy}: a process is at work on it"
        found = json.loads(run_here("gc", "-w", both.root, "--json").out)
        assert [(g["artifact"], g["left"]) for g in found] == [(busy, "")]

    def test_where_nothing_was_run(self, tmp_path: Path) -> None:
        Workspace.open(tmp_path / "w")
        done = run_here("gc", "-w", tmp_path / "w")
        assert done.code == 2 and "nothing has been run" in done.complaint
        done = run_here("gc", "-w", tmp_path / "none")
        assert done.code == 2 and "is not a workspace" in done.complaint
