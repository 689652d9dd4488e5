"""Image sets that grow: what an earlier set holds is taken from there, to the bytes of a run from nothing."""

from typing import Any

import pytest

from saeuron.config import EvaluateConfig
from saeuron.pipelines.loading import identity
from storage import Workspace
from tasks.images import ImagesJob, bases, image_set, images, images_shard, index, shard_count
from tasks.registry import runs
from tests.sae_workspace import build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Any) -> Workspace:
    return build(tmp_path_factory.mktemp("images") / "w", tiny_model_folder)


def job(workspace: Workspace, **config: Any) -> ImagesJob:
    run = runs.remembered(workspace)
    found = ImagesJob(
        workspace=workspace.root,
        model=run.model,
        model_id=identity(run.model.spec),
        config=EvaluateConfig(**config),
        prompts_id=workspace.artifacts("prompts")[0].id,
    )
    return found.model_copy(
        update={"bases": bases(found, workspace.artifacts("images"), workspace.artifacts("prompts"))}
    )


def make(wanted: ImagesJob) -> str:
    for shard in range(shard_count(wanted)):
        images_shard.fn(wanted, shard)
    return image_set.fn(wanted).id


def files(workspace: Workspace, artifact_id: str) -> dict[str, bytes]:
    folder = workspace.folder(artifact_id)
    return {f.name: (folder / f.name).read_bytes() for f in workspace.manifest(artifact_id).files}


@pytest.mark.parametrize(
    ("seed", "before", "after"),
    [
        (100, {"seeds": 1}, {"seeds": 3}),
        (101, {"seeds": 3}, {"seeds": 2}),
        # Shards of other sizes, which do not end where the others do.
        (102, {"seeds": 2, "shard_images": 3}, {"seeds": 3, "shard_images": 5}),
    ],
)
def test_only_the_difference_is_generated(
    made: Workspace, generated: list[str], seed: int, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first = job(made, **before, seed=seed)
    make(first)
    grown = job(made, **after, seed=seed)
    assert grown.bases == (first.id,) and grown.id == job(made, **after, seed=seed).id
    generated.clear()
    make(grown)
    keys = [[r.key for r in images(each)] for each in (first, grown)]
    assert sorted(generated) == sorted({*keys[1]} - {*keys[0]})
    incremental = files(made, grown.id)
    made.delete(grown.id)
    generated.clear()
    make(grown.model_copy(update={"bases": ()}))
    assert files(made, grown.id) == incremental and generated == keys[1]
    rows = index(made, grown.id)
    assert [(r["prompt_id"], r["image_index"]) for r in rows] == [(r.prompt.id, r.index) for r in images(grown)]


def test_images_of_another_kind_are_not_taken(made: Workspace) -> None:
    known = job(made, seeds=1, seed=90)
    make(known)
    assert known.id in job(made, seeds=2, seed=90).bases
    wanted = job(made, seeds=2, seed=90)
    there, prompts = made.artifacts("images"), made.artifacts("prompts")
    others = {
        "config": EvaluateConfig(seeds=2, seed=91),
        "model": wanted.model.model_copy(update={"steps": wanted.model.steps + 1}),
        "contents": ("c1",),
        "device": "cuda",
    }
    for name, value in others.items():
        assert known.id not in bases(wanted.model_copy(update={name: value}), there, prompts), name


def test_of_other_concepts_no_set_is_looked_into(made: Workspace) -> None:
    make(job(made, seeds=1, seed=95))
    wanted, [own, *_] = job(made, seeds=2, seed=95), made.artifacts("prompts")
    there = made.artifacts("images")
    concepts = own.config["domains"]
    other, grown = "prompts_v1_0000000000000000000a", "prompts_v1_0000000000000000000b"
    names = {other: ["another"], grown: ["another", *concepts["style"]]}
    prompts = [
        own,
        *(own.model_copy(update={"id": i, "config": {"domains": {**concepts, "style": n}}}) for i, n in names.items()),
    ]
    assert bases(wanted.model_copy(update={"prompts_id": other}), there, prompts) == ()
    assert bases(wanted.model_copy(update={"prompts_id": grown}), there, prompts) == wanted.bases != ()


@pytest.mark.parametrize("file", ["images.parquet", "00000.tar"])
def test_a_damaged_set_is_passed_over(
    made: Workspace, generated: list[str], caplog: pytest.LogCaptureFixture, file: str
) -> None:
    base = job(made, seeds=1, seed=len(file))
    make(base)
    path = made.folder(base.id) / file
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    grown = job(made, seeds=2, seed=len(file))
    generated.clear()
    make(grown)
    assert len(generated) == len(images(grown)) and "are not used again" in caplog.text
    made.delete(base.id)
