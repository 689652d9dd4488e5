"""The step that trains an SAE: what stops it after the training does not cost the training."""

from pathlib import Path

import numpy as np
import pytest

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import Trainer, quality
from storage import Workspace
from storage.dense.activations import encode
from storage.dense.shards import write_shard
from storage.errors import DiskFull
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
