"""Statistics that grow: only the difference is made, and what comes of it is what a run from nothing makes."""

from pathlib import Path
from typing import Any

import pytest

import tasks.score
from saeuron.config import ScoreConfig
from saeuron.pipelines.loading import identity
from saeuron.sae.config import SAEConfig
from saeuron.scoring import images
from storage import Workspace
from tasks import prompts
from tasks.registry import runs
from tasks.score import Base, Part, ScoreJob, bases, left, score
from tasks.train import TrainJob, train
from tests.sae_workspace import HOOKPOINTS, build

ONE, BOTH = HOOKPOINTS[:1], HOOKPOINTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    return build(tmp_path_factory.mktemp("score") / "w", tiny_model_folder)


def job(workspace: Workspace, hookpoints: tuple[str, ...], concept: str = "neon", **config: Any) -> ScoreJob:
    run = runs.remembered(workspace)
    prompt_set = workspace.artifacts("prompts")[0].id
    scored = ScoreConfig(**config)
    wanted = images(prompts.read(workspace, prompt_set), scored, "style", concept, "crossed")
    saes = {m.summary["hookpoint"]: m.id for m in workspace.artifacts("sae")}
    found = ScoreJob(
        workspace=workspace.root,
        model=run.model,
        model_id=identity(run.model.spec),
        config=scored,
        domain="style",
        concept=concept,
        score_on="crossed",
        prompts_id=prompt_set,
        images_id=prompts.images_id(wanted),
        saes={h: saes[h] for h in hookpoints},
    )
    return found.model_copy(update={"bases": bases(found, workspace.artifacts("score"))})


def files(workspace: Workspace, artifact_id: str) -> dict[str, bytes]:
    folder = workspace.folder(artifact_id)
    return {f.name: (folder / f.name).read_bytes() for f in workspace.manifest(artifact_id).files}


def from_nothing(workspace: Workspace, grown: ScoreJob) -> dict[str, bytes]:
    """What the same job makes where no base is known."""
    workspace.delete(grown.id)
    again = score.fn(grown.model_copy(update={"bases": ()}))
    assert not again.cached and again.id == grown.id
    return files(workspace, grown.id)


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ({"images": 3}, {"images": 11}, 8),
        ({"images_per_prompt": 2}, {"images_per_prompt": 5}, 4 * 3),
        ({"images": 5, "every": 2}, {"images": 5}, 5),
        ({"images": 3, "every": 2}, {"images": 9, "every": 1}, 9),
        ({"images": 3, "half": "both"}, {"images": 5, "half": "both"}, 2),
    ],
)
def test_only_the_difference_is_generated(
    made: Workspace, generated: list[str], before: dict[str, Any], after: dict[str, Any], count: int
) -> None:
    score.fn(job(made, BOTH, **before, seed=len(str(before)) + count))
    generated.clear()
    grown = job(made, BOTH, **after, seed=len(str(before)) + count)
    assert grown.bases
    assert not score.fn(grown).cached
    assert len(generated) == len(set(generated)) == count
    incremental = files(made, grown.id)
    generated.clear()
    assert from_nothing(made, grown) == incremental
    assert len(generated) >= count and set(incremental) == {
        "images.json", *(f"{h}/{name}.parquet" for h in BOTH for name in ("by_latent", "cells", "statistics"))
    }  # fmt: skip


def test_another_hookpoint_costs_a_pass_for_itself_alone(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    score.fn(job(made, ONE, images=6, seed=7))
    read: list[list[str]] = []
    gather = tasks.score._gather
    monkeypatch.setattr(
        tasks.score, "_gather", lambda j, p, w, saes: read.append([*saes.values()]) or gather(j, p, w, saes)
    )
    grown = job(made, BOTH, images=6, seed=7)
    score.fn(grown)
    assert read == [[BOTH[1]]]
    incremental = files(made, grown.id)
    assert from_nothing(made, grown) == incremental


def test_two_dictionaries_share_a_pass_and_are_artifacts_of_their_own(made: Workspace, generated: list[str]) -> None:
    """Each with the bytes that it has alone; what is made beside another is only committed."""
    trained, other = job(made, BOTH, images=6, seed=50), job(made, BOTH, images=6, seed=50)
    about = made.manifest(trained.saes[BOTH[0]]).config
    untrained = TrainJob(
        workspace=made.root,
        config=SAEConfig.model_validate(runs.remembered(made).train.model_dump()).learning("untrained"),
        hookpoint=BOTH[0],
        capture_id=about["capture_id"],
    )
    other = other.model_copy(update={"saes": {BOTH[0]: train.fn(untrained).id}})
    other = ScoreJob.model_validate(other.model_dump())
    assert other.id != trained.id
    generated.clear()
    score.fn(trained.model_copy(update={"beside": (other,)}))
    assert len(generated) == 6 and made.has(trained.id) and not made.has(other.id)
    done = score.fn(other)
    assert len(generated) == 6 and not done.cached
    together = {i: files(made, i) for i in (trained.id, other.id)}
    assert f"{BOTH[0]}/statistics.parquet" in together[other.id]
    assert from_nothing(made, trained) == together[trained.id] and len(generated) == 12
    assert from_nothing(made, other) == together[other.id] and len(generated) == 18


def test_nothing_is_generated_where_all_of_it_is_there(made: Workspace, generated: list[str]) -> None:
    score.fn(job(made, BOTH, images=6, seed=8))
    generated.clear()
    less = job(made, ONE, images=6, seed=8)
    score.fn(less)
    assert generated == []
    assert from_nothing(made, less) == files(made, less.id)


@pytest.mark.parametrize(
    "other",
    [{"images": 9}, {"seed": 10}, {"half": "unconditional"}, {"concept": "dots"}, {"images": 3, "every": 2}],
    ids=str,
)
def test_what_is_no_part_is_not_taken(made: Workspace, generated: list[str], other: dict[str, Any]) -> None:
    """More images or other steps than are wanted: a sum gives nothing back. Another seed, half or concept."""
    base = {"images": 5, "seed": 9, "every": 1}
    known = score.fn(job(made, BOTH, **(base | other)))
    generated.clear()
    wanted = job(made, BOTH, **(base | ({"every": 3} if "every" in other else {})))
    wanted = wanted.model_copy(update={"bases": tuple(b for b in wanted.bases if b == known.id)})
    if made.has(wanted.id):  # of another case
        made.delete(wanted.id)
    score.fn(wanted)
    assert len(generated) == 5


def test_a_damaged_base_is_passed_over(made: Workspace, generated: list[str]) -> None:
    base = score.fn(job(made, BOTH, images=3, seed=11))
    grown = job(made, BOTH, images=5, seed=11)
    assert base.id in grown.bases
    (made.folder(base.id) / "images.json").unlink()
    generated.clear()
    score.fn(grown)
    assert len(generated) == 5
    made.delete(base.id)


def test_what_a_base_lacks_is_left_to_score() -> None:
    base = Base(Path("b"), frozenset("ab"), 4)
    assert left("abc", 2, None) == [Part(frozenset("abc"), 2)]
    assert left("abc", 4, base) == [Part(frozenset("c"), 4)]
    assert left("abc", 2, base) == [Part(frozenset("c"), 2), Part(frozenset("ab"), 2, 4)]
    assert left("ab", 4, base) == []
