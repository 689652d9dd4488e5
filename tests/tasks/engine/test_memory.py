"""A task whose memory is full draws smaller batches, and the artifact says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saeuron.config import EvaluateConfig
from saeuron.errors import FullMemory, NoRoom
from saeuron.pipelines.loading import identity
from storage import Workspace
from storage.files import read_json
from tasks.engine import model
from tasks.images import ImagesJob, image_set, images_shard, shard_count
from tasks.registry import runs
from tests.sae_workspace import build


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Any) -> Workspace:
    return build(tmp_path_factory.mktemp("memory") / "w", tiny_model_folder)


@pytest.fixture
def job(made: Workspace) -> ImagesJob:
    run = runs.remembered(made)
    return ImagesJob(
        workspace=made.root,
        model=run.model.model_copy(update={"micro_batch": 8}),
        model_id=identity(run.model.spec),
        config=EvaluateConfig(seeds=1, seed=77),
        prompts_id=made.artifacts("prompts")[0].id,
    )


@pytest.fixture
def room(job: ImagesJob) -> Iterator[dict[str, int]]:
    """Images for which the loaded model has room."""
    pipe, room = model.pipeline(job.model, "cpu"), {"images": 100}

    def before(module: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        if len(args[0]) > 2 * room["images"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    yield room
    handle.remove()
    vars(pipe).pop("_saeuron_fits", None)


def make(job: ImagesJob) -> Path:
    for shard in range(shard_count(job)):
        images_shard.fn(job, shard)
    return job.open.whole(image_set.fn(job).id)


def test_the_artifact_says_in_which_batches_it_was_drawn(made: Workspace, job: ImagesJob, room: dict[str, int]) -> None:
    whole = make(job)
    assert not (whole / model.SMALLER).exists()
    made.delete(job.id)
    room["images"] = 3
    with pytest.warns(FullMemory) as said:
        small = make(job)
    assert str(said[0].message).startswith("memory is full with 8 images at once; going on with 4")
    # The id is the configured one's: a run finds what was made.
    assert small == whole
    assert read_json(small / model.SMALLER) == {"micro_batch": 8, "smallest_drawn": 2, "same_bits": False}
    assert model.SMALLER in {f.name for f in made.manifest(job.id).files}


def test_memory_that_is_full_with_one_image_is_the_users_to_mend(
    made: Workspace, job: ImagesJob, room: dict[str, int]
) -> None:
    job = job.model_copy(update={"config": EvaluateConfig(seeds=1, seed=78)})
    room["images"] = 0
    full = r"^memory is full with one image at a time \(CUDA out of memory\);"
    with pytest.raises(NoRoom, match=full), pytest.warns(FullMemory):
        images_shard.fn(job, 0)
    assert not made.has(job.id)


def test_memory_that_is_full_elsewhere_is_one_line_too(job: ImagesJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    monkeypatch.setattr(images_shard, "function", fill)
    job = job.model_copy(update={"config": EvaluateConfig(seeds=1, seed=79)})
    with pytest.raises(NoRoom, match=r"^memory is full with images unedited \(CUDA out of memory\); take a smaller"):
        images_shard.fn(job, 0)
