"""One SAE fitted to shards, in one process and in two that `torchrun` starts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from saeuron.checkpoint import load_tensors
from saeuron.errors import ConfigError, SaeuronError
from saeuron.sae.config import SAEConfig, TopKOptions
from saeuron.sae.ranks import Ranks
from saeuron.sae.training import Trainer
from storage.dense import activations, shards
from tasks.fit import CHECKPOINT, Fit, Labels, fit, fit_in_processes
from tests.tasks.several_fits import FIRST

WIDTH = 8
SMALL = SAEConfig(expansion=6, k=2, batch=32, steps=30, lr=1e-2, dead_rows=64, checkpoint_every=13, warmup=3)

LABELS = Labels(
    concepts={"object": ("cat", "moon"), "style": ("dots", "neon", "flat")},
    images={f"image{s}{i:02}": (i % 3 - 1, (i + s) % 4 - 1) for s in range(2) for i in range(12)},
)


@pytest.fixture
def work(tmp_path: Path):
    """Two shards of 12 members [3 steps, 10 positions, D]; the later half of D is nearly silent in one of them."""
    noise = np.random.default_rng(0).normal(size=(2, 12, 3, 10, WIDTH))
    noise[1, ..., WIDTH // 2 :] *= 0.05
    paths = []
    for s, members in enumerate(noise):
        path = tmp_path / f"{s}.tar"
        bytes_ = [(f"image{s}{i:02}", {"npy": activations.encode(m.astype(np.float16))}) for i, m in enumerate(members)]
        shards.write_shard(path, bytes_, {})
        paths.append(path)

    def build(name: str, **changes: object) -> Fit:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = SMALL.model_copy(update=changes)
        labels = LABELS if config.needs_labels else None
        return Fit(config=config, hookpoint="h", shards=tuple(paths), checkpoint=folder / CHECKPOINT, labels=labels)

    return build


def quiet(done: int, fvu: float) -> None:
    pass


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return dict(trainer.variant.state_dict())


@pytest.mark.timeout(120)
def test_processes_report_and_when_interrupted_go_on(work) -> None:
    def stop(done: int, fvu: float) -> None:
        raise KeyboardInterrupt

    # Steps enough to be interrupted in the middle of.
    broken, seen = work("broken", processes=2, steps=400), []
    with pytest.raises(KeyboardInterrupt):
        fit_in_processes(broken, stop)
    _, metadata = load_tensors(broken.checkpoint)
    assert metadata["step"] % 13 == 0 and 0 < metadata["step"] < 400
    trained = fit_in_processes(broken, lambda done, fvu: seen.append((done, fvu)))
    begun = metadata["step"] // 20 * 20 + 20
    assert [done for done, _ in seen] == list(range(begun, 401, 20)) and trained.step_index == 400
    assert all(value > 0 for _, value in seen) and seen[-1][1] < 0.5


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_checkpoint_is_as_good_as_none(work, how, caplog) -> None:
    def stop(done: int, fvu: float) -> None:
        raise KeyboardInterrupt

    broken = work("broken")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(broken, stop)
        assert load_tensors(broken.checkpoint)[1]["step"] == 13 and not caplog.text
    data = bytearray(broken.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    broken.checkpoint.write_bytes(data if how == "flip" else data[: len(data) // 2])
    resumed, whole = fit(broken, quiet), fit(work("whole"), quiet)
    assert "training h from the start: its checkpoint is damaged" in caplog.text
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
    assert resumed.history == whole.history


def test_what_fails_in_a_process_is_told_in_a_line(work) -> None:
    with pytest.raises(
        SaeuronError, match=r"training h in 2 processes failed: .*train.k is 49, but an SAE at h has 48"
    ):
        fit_in_processes(work("odd", processes=2, k=49), quiet)


BY_ROW = ("topk", "abs_topk", "top_afa", "jumprelu", "gated", "vsae", "assigned", "contrastive")
"""Variants that choose row by row."""
SHARED_OUT = {
    **{f"rows {name}": {"variant": name, "share": "rows"} for name in BY_ROW},
    "rows, compared": {"variant": "batch_topk", "share": "rows"},
    "topk": {"variant": "topk"},
    "multi": {"variant": "topk", "topk": TopKOptions(multi=0.125)},
    "batch_topk": {"variant": "batch_topk"},
    "plain": {"variant": "batch_topk", "k": 7},
    "more than a rank's latents": {"variant": "topk", "k": 30, "dead_rows": 32},
}
"""What two processes train, who share out latents where nothing else is said."""


@pytest.mark.timeout(240)
def test_two_processes_train_what_one_does_and_resume_exactly(work) -> None:
    told = {name: work(name, processes=2, **{"share": "latents", **options}) for name, options in SHARED_OUT.items()}
    files = []
    for each in told.values():
        files.append(each.checkpoint.with_name("fit.json"))
        files[-1].write_text(each.model_dump_json())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.tasks.several_fits"]
    subprocess.run([sys.executable, *command, *map(str, files)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    dead = []
    for name, options in SHARED_OUT.items():
        one = fit(work(f"one {name}", **options), quiet)
        resumed, first = told[name].checkpoint, Path(f"{told[name].checkpoint}{FIRST}")
        assert resumed.read_bytes() == first.read_bytes()
        two = Trainer(told[name].config, WIDTH, "h", concepts=told[name].concepts)
        two.load(resumed)
        assert two.variant.W_dec.shape == (48, WIDTH)
        if name == "rows, compared":
            # Slices of 16 rows have largest p of their own: near, and not the same.
            assert [p.fvu for p in two.history] == pytest.approx([p.fvu for p in one.history], rel=0.1)
            agreement = torch.nn.functional.cosine_similarity(weights(one)["W_dec"], weights(two)["W_dec"])
            assert agreement.mean() > 0.95 and not torch.equal(weights(one)["W_dec"], weights(two)["W_dec"])
            continue
        # All is the same to rounding: curve, clipping, AuxK, thresholds, moments, silence.
        np.testing.assert_allclose(np.array(two.history), np.array(one.history), rtol=1e-4)
        for key, tensor in weights(one).items():
            torch.testing.assert_close(weights(two)[key], tensor, rtol=1e-3, atol=1e-5)
        assert torch.equal(one.silent, two.silent)
        dead.append(one.history[0].dead)
    assert max(dead) > 0


def test_latents_that_cannot_be_shared_out() -> None:
    with pytest.raises(
        ValueError, match=r"train.share is 'latents', but train.variant is 'gated'; expected one of topk"
    ):
        SAEConfig(share="latents", variant="gated")
    with pytest.raises(SaeuronError, match=r"train.expansion \* D is 40: expected a multiple of the 3 processes"):
        Trainer(SAEConfig(share="latents", expansion=5), WIDTH, "h", ranks=Ranks(0, 3))


def test_how_the_work_is_shared_is_of_no_account_to_one_process() -> None:
    assert SAEConfig(share="latents").identity == SAEConfig().identity
    assert SAEConfig(share="latents", processes=2).identity != SAEConfig(processes=2).identity
    assert "share" not in SAEConfig(processes=2).identity


@pytest.mark.parametrize("batch", [32, 50])
def test_trajectories_use_up_some_images_before_the_next(work, monkeypatch, batch) -> None:
    """Of 24 images of 30 rows, eight at a time."""
    image_of: dict[bytes, int] = {}
    for path in work("any").shards:
        for _, rows in activations.ActivationRows([path]).everything():
            image = len(set(image_of.values()))
            image_of |= {row.tobytes(): image for row in rows.reshape(-1, WIDTH)}
    assert len(image_of) == 720
    seen: list[list[int]] = []
    step = Trainer.step

    def noted(trainer: Trainer, rows: torch.Tensor) -> None:
        seen.append([image_of[row.tobytes()] for row in rows.numpy()])
        step(trainer, rows)

    monkeypatch.setattr(Trainer, "step", noted)
    fit(work("whole", order="trajectories", batch=batch, steps=720 // batch), quiet)
    images = [image for batch_ in seen for image in batch_]
    assert all(4 < len(set(batch_)) <= 16 for batch_ in seen), "mixed over images"
    pools = [set(images[i : i + 240]) for i in range(0, len(images) // 240 * 240, 240)]
    assert [len(pool) for pool in pools] == [8] * len(pools) and len(set.union(*pools)) == 8 * len(pools)
    seen.clear()
    fit(work("mixed", batch=batch, steps=720 // batch), quiet)
    assert len({image for batch_ in seen[:3] for image in batch_}) > 16


def test_what_several_processes_left_is_read_into_main_memory(work, monkeypatch) -> None:
    """An SAE that they share out may fit no device."""
    asked: list[str] = []
    whole = Trainer.__init__

    def noted(self, config, width, hookpoint, device="cpu", **others) -> None:
        asked.append(device)
        whole(self, config, width, hookpoint, "cpu", **others)

    monkeypatch.setattr(Trainer, "__init__", noted)
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: ended())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    shared = {"processes": 2, "share": "latents"}
    Trainer(SMALL.model_copy(update=shared), WIDTH, "h").save(work("shared").checkpoint)
    told = work("shared", kernels="triton", **shared).model_copy(update={"device": "cuda"})
    assert fit_in_processes(told, quiet).sae.W_dec.device.type == "cpu"
    assert asked == ["cpu", "cpu"]


class ended:
    """A process that ended well."""

    stdout = ()

    def __enter__(self) -> "ended":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self) -> int:
        return 0


@pytest.mark.parametrize("order", ["mixed", "trajectories"])
@pytest.mark.parametrize("variant", ["assigned", "contrastive"])
def test_labels_reach_the_variant_and_a_stopped_fit_ends_with_the_same_bytes(work, monkeypatch, variant, order) -> None:
    image_of: dict[bytes, str] = {}
    for key, rows in activations.ActivationRows(work("any").shards).everything():
        image_of |= {row.tobytes(): key for row in rows.reshape(-1, WIDTH)}
    seen: list[int] = []
    step = Trainer.step

    def noted(trainer: Trainer, rows: torch.Tensor, labels: torch.Tensor) -> None:
        assert labels.tolist() == [[*LABELS.images[image_of[row.tobytes()]]] for row in rows.numpy()]
        seen.append(trainer.step_index)
        step(trainer, rows, labels)

    monkeypatch.setattr(Trainer, "step", noted)
    whole = fit(work("whole", variant=variant, order=order), quiet)
    assert seen == list(range(30))

    def stop(done: int, fvu: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(work("stopped", variant=variant, order=order), stop)
    resumed = fit(work("stopped", variant=variant, order=order), quiet)
    assert seen[30:] == [*range(20), *range(13, 30)]
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(resumed).items())
    assert resumed.history == whole.history


def test_a_fit_without_labels_is_refused_before_a_row_is_read(work, monkeypatch) -> None:
    told = work("bare", variant="assigned").model_copy(update={"labels": None})
    monkeypatch.setattr(activations.ActivationRows, "batches", lambda *args, **options: pytest.fail("read"))
    with pytest.raises(ConfigError, match="'assigned' learns from concept labels, but the rows at h have none"):
        fit(told, quiet)
