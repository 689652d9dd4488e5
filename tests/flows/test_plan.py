"""What a run would do, asked of workspaces whose artifacts are manifests and a few bytes."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from flows import plan as plans
from flows.check import check
from flows.config import load
from flows.plan import Plan, Planned, page
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.pipelines import loading as models
from storage import Workspace
from tasks.engine.job import Job, Made
from tasks.tune import TuneJob
from tests.end_to_end.process import TINY, run_here

SECONDS = {"score": 3.0, "images": 2.0}


def plan(config: RunConfig, root: Path, concepts: list[str] | None = None, device: str = "cpu") -> list[Planned]:
    """The artifacts that a run would make or find, in its order."""
    return list(plans.planned(config, root, concepts, device).planned.values())


def planned(root: Path, *settings: str) -> list[Planned]:
    return plan(load(str(TINY), list(settings)), root)


def made_up(root: Path, config: RunConfig, files: tuple[str, ...] = ("file",)) -> Workspace:
    """A workspace in which everything that a run of `config` makes is there, contents aside."""
    workspace, jobs = Workspace.open(root), {}
    step = Plan.step

    def watched(self: Plan, task: object, job: Job, *args: int, **how: object) -> Made:
        jobs[job.id] = job
        return step(self, task, job, *args, **how)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "step", watched)
        # Twice: what an evaluation is of is known once its removal is there.
        for _ in range(2):
            for p in plan(config, root):
                if not p.cached:
                    job = jobs[p.id]
                    job.folder.mkdir(parents=True)
                    for name in files:
                        (job.folder / name).write_bytes(bytes(1000))
                    about = {
                        "sae": {"hookpoint": job.label},
                        "score": {"saes": []},
                    }
                    if isinstance(job, TuneJob):
                        settings = {"n": 4, "gamma": -1.0}
                        about["removal"] = {"concept": job.concept, "method": job.method, "settings": settings}
                    if job.stage == "capture":
                        about["capture"] = {"hookpoint": job.label, "model_id": job.model_id, "width": 128}  # type: ignore[attr-defined]
                    summary = about.get(job.stage, {})
                    seconds = SECONDS.get(job.stage, 1.0)
                    workspace.commit(job.id, config=job.identity, inputs={}, summary=summary, seconds=seconds)
    return workspace


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up(tmp_path_factory.mktemp("plan") / "w", load(str(TINY))).root


@pytest.fixture
def whole(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


def test_of_a_new_workspace_everything_is_new_and_nothing_is_written(tmp_path: Path) -> None:
    found = planned(tmp_path / "w")
    assert Counter(p.stage for p in found) == {
        "prompts": 1, "capture": 3, "sae": 3, "score": 6, "totals": 3, "trials": 2, "removal": 2, "images": 3,
        "judgements": 6,
        "evaluation": 2, "pictures": 2,
    }  # fmt: skip
    assert not any(p.cached for p in found) and {p.why for p in found} == {"new"}
    assert {p.seconds for p in found} == {None}
    said = page(found)
    assert said[-1] == "33 would be made, 0 are in place"
    # A row for each stage, images by the removals that they show; nothing was measured, so no costs.
    assert said[0].splitlines()[0].split() == ["stage", "jobs", "what", "because"]
    assert any(line.split()[:2] == ["images", "3"] and "by saeuron" in line for line in said[0].splitlines())
    assert not (tmp_path / "w").exists()


def test_of_a_whole_workspace_nothing(whole: Workspace) -> None:
    found = planned(whole.root)
    assert all(p.cached for p in found)
    assert page(found) == ["0 would be made, 33 are in place"]


def test_a_change_says_what_follows_and_which_input_it_was(whole: Workspace) -> None:
    found = planned(whole.root, "train.k=9")
    todo = [p for p in found if not p.cached]
    assert {p.stage for p in found if p.cached} == {"prompts", "capture", "images", "judgements"}
    assert Counter(p.stage for p in todo) == {
        "sae": 3, "score": 6, "totals": 3, "trials": 2, "removal": 2, "images": 2, "judgements": 4, "evaluation": 2,
        "pictures": 2,
    }  # fmt: skip
    assert {p.why for p in todo if p.stage == "sae"} == {"config.k: 8 -> 9"}
    cat = next(p for p in todo if p.stage == "score" and p.label == "cat")
    assert cat.why == "its sae"
    assert {p.why for p in todo if p.stage == "totals"} == {"its sae, its score"}


def test_another_hookpoint_costs_what_depends_on_it(whole: Workspace) -> None:
    config = load(str(TINY))
    more = (*config.domains["object"].hookpoints, "unet.mid_block.attentions.0")
    found = planned(whole.root, f"domains.object.hookpoints={json.dumps(more)}")
    todo = [p for p in found if not p.cached]
    assert [p.label for p in todo if p.stage in ("capture", "sae")] == 2 * ["unet.mid_block.attentions.0"]
    assert {p.label for p in todo if p.stage in ("score", "removal")} == {"cat", "moon", "star", "cat by saeuron"}


def test_prompts_change_the_stages_whose_images_they_change(whole: Workspace) -> None:
    config = load(str(TINY))

    def todo(split: str, template: str) -> dict[str, set[str]]:
        texts = {**config.prompts.templates, split: (*config.prompts.templates[split], template)}
        found = planned(whole.root, f"prompts.templates={json.dumps(texts)}")
        return {s: {p.why for p in found if p.stage == s and not p.cached} for s in ("capture", "sae", "removal")}

    assert todo("test", "A {object} that nobody has seen, in {style} style.") == {
        "capture": set(), "sae": set(), "removal": set()
    }  # fmt: skip
    assert todo("train", "A lone {style} thing.")["capture"] == {"its prompts"}
    assert len([p for p in planned(whole.root, "capture.plain_prompts=9") if p.stage == "sae" and not p.cached]) == 3


def test_an_sae_that_is_given_is_not_trained(whole: Workspace) -> None:
    jobs = {p.label: p.id for p in planned(whole.root) if p.stage == "sae"}
    hookpoint = load(str(TINY)).domains["object"].hookpoints[0]
    given = json.dumps({hookpoint: jobs[hookpoint]})
    found = planned(whole.root, f"saes={given}", "train.k=9")
    assert [p.label for p in found if p.stage == "sae"] == [h for h in jobs if h != hookpoint]
    assert hookpoint not in [p.label for p in found if p.stage == "capture"]
    # What was made of it is found.
    assert {p.label for p in found if p.stage == "score" and p.cached} == {"cat", "moon", "star"}


@pytest.mark.parametrize(
    ("saes", "said"),
    [
        ({"unet.up_blocks.0.attentions.1": "sae_v2_none"}, "unknown SAE 'sae_v2_none'"),
        ({"unet.mid_block": "sae_v2"}, "saes names 'unet.mid_block', which no domain has"),
        (
            {"unet.up_blocks.1.attentions.0": "OTHER"},
            "attentions.1, not to unet.up_blocks.1.attentions.0",
        ),
    ],
)
def test_an_sae_that_cannot_be_given(whole: Workspace, saes: dict[str, str], said: str) -> None:
    other = next(p.id for p in planned(whole.root) if p.label == "unet.up_blocks.0.attentions.1" and p.stage == "sae")
    text = json.dumps(saes).replace("OTHER", other)
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--set", f"saes={text}")
    assert done.code == 2 and said in done.complaint


def test_the_cost_is_what_the_stage_took_before(whole: Workspace) -> None:
    todo = [p for p in planned(whole.root, "train.k=9") if not p.cached]
    assert {(p.stage, p.seconds) for p in todo} >= {("sae", 1.0), ("score", 3.0), ("images", 2.0)}
    assert {p.megabytes for p in todo} == {0.001}
    seconds = 3 * 1 + 6 * 3 + 3 * 1 + 2 * 1 + 2 * 1 + 2 * 2 + 4 * 1 + 2 * 1 + 2 * 1
    assert page(todo)[-1] == f"about {seconds} s and 0.0 MB, by what the same stages took before"


class TestHookpoints:
    """A model whose hookpoints were captured is not built to look for them, which takes seconds."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []
        look = models.check_hookpoints
        monkeypatch.setattr(models, "check_hookpoints", lambda spec, paths: seen.append(paths) or look(spec, paths))
        return seen

    def test_all_were_captured(self, whole: Workspace, asked: list[tuple[str, ...]]) -> None:
        check(load(str(TINY)), whole)
        assert asked == []
        # What their width says is still checked: 2 x 128 latents.
        with pytest.raises(ConfigError, match="has 256 latents"):
            check(load(str(TINY), ["train.k=257"]), whole)

    @pytest.mark.parametrize("where", ["another hookpoint", "another model", "a new workspace"])
    def test_one_was_not(
        self, whole: Workspace, asked: list[tuple[str, ...]], where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        more = ["domains.object.hookpoints=[unet.mid_block.attentions.0]"] if where == "another hookpoint" else []
        if where == "another model":
            monkeypatch.setattr(models, "identity", lambda spec: "another")
        config = load(str(TINY), more)
        check(config, None if where == "a new workspace" else whole)
        assert asked == [config.hookpoints]


def test_a_damaged_artifact_would_be_made_again(whole: Workspace) -> None:
    score = whole.artifacts("score")[0]
    (whole.folder(score.id) / "file").unlink()
    [again] = [p for p in planned(whole.root) if not p.cached]
    assert again.id == score.id


def test_run_plan_prints_and_writes_nothing(whole: Workspace) -> None:
    before = sorted(whole.root.rglob("*"))
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--set", "score.images=5")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["stage", "jobs", "what", "about", "s", "MB", "because"]
    assert lines[2].split()[:5] == ["score", "6", "stripes;", "neon;", "dots"]
    assert re.search(r"  18\.0 +0\.0  config.images: 4 -> 5$", lines[2]) and lines[3].split() == ["3", "more"]
    assert "23 would be made, 10 are in place" in lines
    assert "at most: images and figures of a removal that is chosen the same again are kept" in lines
    assert "counted from the model's configuration, before anything is loaded:" in lines
    assert "no judge" not in done.err
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--json")
    assert all(p["cached"] for p in json.loads(done.out))
    assert sorted(whole.root.rglob("*")) == before
    without = run_here("run", TINY, "-w", whole.root, "--plan", "--json", "--set", "domains.style.judge=none")
    said = (
        "no judge for style: its pictures are not judged, figures that need it are '-', and settings are not searched"
    )
    shown = run_here("run", TINY, "-w", whole.root, "--plan", "--set", "domains.style.judge=none").out.splitlines()
    [start] = [i for i, line in enumerate(shown) if line.startswith("no judge")]
    assert " ".join(map(str.strip, shown[start:])).startswith(said)
    labels = {p["label"] for p in json.loads(without.out) if p["stage"] == "judgements"}
    assert said in without.err and labels == {"object by canvas20"}
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--set", "train.k=9999")
    assert done.code == 2 and "train.k is 9999" in done.complaint
    few = ("--set", "train.variant=feature_choice", "--set", "train.k=1", "--set", "train.batch=64")
    done = run_here("run", TINY, "-w", whole.root, "--plan", *few)
    assert done.code == 2 and "train.k * train.batch is 64 in each process: expected at least" in done.complaint
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--set", "train.kernels=triton")
    assert done.code == 2 and "'triton' are for CUDA, but the run is on 'cpu'; take 'torch'" in done.complaint
    done = run_here("run", TINY, "-w", whole.root, "--plan", "--set", "train.processes=3")
    assert done.code == 2 and "train.batch is 256; expected a multiple of train.processes, 3" in done.complaint
