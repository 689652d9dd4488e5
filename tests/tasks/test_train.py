"""The step that trains an SAE: what stops it after the training does not cost the training."""

from pathlib import Path

import numpy as np
import pytest

from saeuron.errors import ConfigError
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import Trainer, quality
from storage import Workspace
from storage.dense.activations import encode
from storage.dense.shards import write_shard
from storage.errors import DiskFull
from storage.tables import PROMPTS, table, write_table
from tasks import train as step
from tasks.fit import CHECKPOINT
from tasks.train import TrainJob, train

HOOK, WIDTH = "unet.mid_block", 8
CAPTURE = f"capture_v2_{20 * '0'}"
ROWS = np.random.default_rng(0).standard_normal((3, 100, WIDTH)).astype(np.float16)


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    workspace = Workspace.open(tmp_path / "w")
    write_shard(workspace.folder(CAPTURE) / HOOK / "00000.tar", [("a", {"npy": encode(ROWS)})], {})
    summary = {"hookpoint": HOOK, "width": WIDTH, "rows": 300, "shards": 1}
    workspace.commit(CAPTURE, config={}, inputs={}, summary=summary, seconds=1)
    config = SAEConfig(expansion=2, k=2, batch=30, steps=20, checkpoint_every=10)
    return TrainJob(workspace=workspace.root, config=config, hookpoint=HOOK, capture_id=CAPTURE)


def test_what_stops_it_after_the_training_does_not_cost_the_training(job: TrainJob, monkeypatch) -> None:
    steps = []
    whole = Trainer.step

    def counted(trainer: Trainer, rows) -> None:
        steps.append(trainer.step_index)
        whole(trainer, rows)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "step", counted)
    with monkeypatch.context() as patch:
        patch.setattr(step, "commit", full)
        with pytest.raises(DiskFull, match="free some space and run again"):
            train.fn(job)
    assert len(steps) == 20 and (job.folder / CHECKPOINT).exists() and not job.open.has(job.id)
    made = train.fn(job)
    assert made.id == job.id and job.open.has(job.id)
    # From the last checkpoint on, which may stand before the end.
    assert 20 <= len(steps) <= 30
    assert not (job.folder / CHECKPOINT).exists()


def test_its_figures_are_of_all_rows(job: TrainJob) -> None:
    train.fn(job)
    (manifest,) = job.open.artifacts("sae")
    found = quality(SAE.load(job.folder), iter([tensor_of(ROWS.reshape(-1, WIDTH))]))
    assert manifest.summary["fvu"] == pytest.approx(found.fvu, rel=1e-6)
    assert manifest.summary["l0"] == found.l0 and manifest.summary["dead"] == found.never


ASKING = [
    Prompt(f"A {o} in {s} style.", "train", {"style": s, "object": o})
    for s in ("neon", "dots")
    for o in ("cat", "moon")
]


@pytest.fixture
def two(tmp_path: Path) -> TrainJob:
    """A capture of four prompts, two images each."""
    workspace = Workspace.open(tmp_path / "two")
    prompts_id = f"prompts_v1_{20 * '0'}"
    rows = [
        {"prompt_id": p.id, "text": p.text, "split": p.split, "concepts": dict(p.concepts)}
        | {"seed": None, "guidance": None, "source": ""}
        for p in ASKING
    ]
    write_table(workspace.folder(prompts_id) / PROMPTS.file, table(rows, PROMPTS))
    workspace.commit(prompts_id, config={}, inputs={}, summary={}, seconds=1)
    samples = [
        (f"{p.id}_{i:04d}", {"npy": encode(np.full((2, 5, WIDTH), n, np.float16))})
        for n, p in enumerate(ASKING)
        for i in range(2)
    ]
    write_shard(workspace.folder(CAPTURE) / HOOK / "00000.tar", samples, {})
    workspace.commit(CAPTURE, config={}, inputs={"prompts": prompts_id}, summary={"hookpoint": HOOK}, seconds=1)
    config = SAEConfig(expansion=2, k=2, batch=10, steps=4)
    return TrainJob(workspace=workspace.root, config=config, hookpoint=HOOK, capture_id=CAPTURE)


def test_images_of_concepts_that_are_left_out_are_not_learned_from(two: TrainJob, monkeypatch) -> None:
    job = two.model_copy(update={"without": {"style": ("neon",)}})
    assert step.left_out(job) == tuple(sorted(f"{p.id}_{i:04d}" for p in ASKING[:2] for i in range(2)))
    seen = []
    whole = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, rows: seen.extend(rows[:, 0].tolist()) or whole(self, rows))
    made = train.fn(job)
    assert {*seen} == {2.0, 3.0} and made.summary["without"] == ["neon"]
    with pytest.raises(ConfigError, match="no captured image asks for 'grain'"):
        step.left_out(two.model_copy(update={"without": {"style": ("neon", "grain")}}))


def test_an_sae_of_all_images_keeps_its_id(two: TrainJob) -> None:
    without = two.model_copy(update={"without": {"style": ("neon",)}})
    assert "without" not in two.identity and without.id != two.id
    assert step.left_out(two) == ()


def test_labels_are_of_what_the_images_that_are_learned_from_ask_for(two: TrainJob) -> None:
    job = two.model_copy(update={"config": two.config.model_copy(update={"variant": "assigned"})})
    found = step.labels(job)
    assert found is not None and found.concepts == {"object": ("cat", "moon"), "style": ("dots", "neon")}
    for p in ASKING:
        place = ("cat", "moon").index(p.concepts["object"]), ("dots", "neon").index(p.concepts["style"])
        assert all(found.images[f"{p.id}_{i:04d}"] == place for i in range(2))
    assert step.labels(two) is None, "topk reads none"
    less = step.labels(job.model_copy(update={"without": {"style": ("neon",)}}))
    assert less is not None and less.concepts == {"object": ("cat", "moon"), "style": ("dots",)}
    assert {*less.images} == {f"{p.id}_{i:04d}" for p in ASKING[2:] for i in range(2)}


@pytest.mark.parametrize("variant", ["assigned", "contrastive"])
def test_a_step_trains_it_and_says_which_latent_is_whose(two: TrainJob, variant: str) -> None:
    job = two.model_copy(update={"config": two.config.model_copy(update={"variant": variant})})
    made = train.fn(job)
    names = ["cat", "moon", "dots", "neon"] if variant == "assigned" else []
    assert made.summary["assigned"] == names and SAE.load(job.folder).info.variant == variant
    assert job.id != two.id


def test_a_capture_that_asks_for_nothing_is_refused_before_it_is_read(two: TrainJob, monkeypatch) -> None:
    job = two.model_copy(update={"config": two.config.model_copy(update={"variant": "contrastive"})})
    nothing = [Prompt(p.text, p.split, {}) for p in ASKING]
    monkeypatch.setattr(step.prompt_sets, "read", lambda workspace, prompts_id: nothing)
    monkeypatch.setattr(Trainer, "__init__", lambda *args, **options: pytest.fail("too late"))
    with pytest.raises(
        ConfigError, match=f"'contrastive' learns from concept labels, but the rows at {HOOK} have none"
    ):
        train.fn(job)
