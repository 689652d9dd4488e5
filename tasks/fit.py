"""Fit one SAE to shards, in this process or in several that `torchrun` starts.

To start it yourself:  torchrun --nproc-per-node 2 -m tasks.fit FIT.json
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from saeuron.errors import SaeuronError
from saeuron.sae.config import TRAJECTORIES, SAEConfig
from saeuron.sae.ranks import ALONE, Ranks
from saeuron.sae.streams import Batch, Labelled
from saeuron.sae.training import Point, Trainer, train
from storage.dense.activations import POOL_ROWS, ActivationRows
from storage.files import write_atomic

CHECKPOINT = ".checkpoint.safetensors"
Report = Callable[[int, float], None]
"""report(steps done, FVU since the last report)."""


class Labels(BaseModel):
    """Which concepts the images of the rows ask for; see `saeuron.sae.labels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concepts: dict[str, tuple[str, ...]]
    """{domain: concepts}."""
    images: dict[str, tuple[int, ...]]
    """{key of an image: its labels, one for each domain}."""


class Fit(BaseModel):
    """The input of one fit; also written to a file for other processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: SAEConfig
    hookpoint: str
    shards: tuple[Path, ...]
    checkpoint: Path
    device: str = "cpu"
    without: tuple[str, ...] = ()
    """Keys of images whose rows are left out."""
    labels: Labels | None = None
    """Labels of rows, for variants that learn from them; None: the rows have none."""

    @property
    def concepts(self) -> dict[str, tuple[str, ...]] | None:
        """The concepts that the labels are of."""
        return None if self.labels is None else self.labels.concepts

    def rows(self, runs: bool | None = None) -> ActivationRows:
        """The rows that are learned from; `runs` as in `ActivationRows`."""
        return ActivationRows(self.shards, runs=runs, without=frozenset(self.without))


def fit(work: Fit, report: Report, ranks: Ranks = ALONE) -> Trainer:
    """Train to the end, from the checkpoint if there is one."""
    config = work.config
    # For `trajectories` pools are small, so that the rows of an image are used close together.
    whole = config.order == "trajectories"
    rows = work.rows(runs=False if whole else None)
    pool = max(TRAJECTORIES["images"] * rows.largest, TRAJECTORIES["batches"] * config.batch) if whole else POOL_ROWS

    def stream(start: int) -> Iterator[Batch]:
        if work.labels is None:
            return rows.batches(config.batch, seed=config.seed, start=start, pool_rows=pool)
        told = rows.labelled(work.labels.images, config.batch, seed=config.seed, start=start, pool_rows=pool)
        return itertools.starmap(Labelled, told)

    def tell(point: Point) -> None:
        report(point.step, point.fvu)

    return train(
        config,
        stream,
        rows.width,
        work.hookpoint,
        checkpoint=work.checkpoint,
        device=work.device,
        ranks=ranks,
        report=tell,
        concepts=work.concepts,
    )


def fit_in_processes(work: Fit, report: Report) -> Trainer:
    """Train in `config.processes` processes; their result is the last checkpoint.

    Raises:
        SaeuronError: they failed; the message is the last line they wrote.
    """
    count = work.config.processes
    told = work.checkpoint.with_name(".fit.json")
    write_atomic(told, work.model_dump_json().encode())
    command = ["--standalone", "--nproc-per-node", str(count), "-m", "tasks.fit", str(told)]
    threads = max(1, torch.get_num_threads() // count)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    start = [sys.executable, "-m", "torch.distributed.run", *command]
    # Standard error goes to a file: an unread pipe would block the processes once it is full.
    with (
        tempfile.TemporaryFile("w+") as words,
        subprocess.Popen(start, stdout=subprocess.PIPE, stderr=words, text=True, env=environment) as process,
    ):
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    point = json.loads(line)
                    report(point["done"], point["fvu"])
        except BaseException:
            # An interrupt must not leave them behind.
            process.terminate()
            raise
        finally:
            code = process.wait()
            told.unlink(missing_ok=True)
        if code:
            words.seek(0)
            errors = [line.strip() for line in words if "Error: " in line]
            raise SaeuronError(
                f"training {work.hookpoint} in {count} processes failed: {errors[0] if errors else f'exit code {code}'}"
            )
    # Loaded into main memory, without GPU kernels: an SAE that the processes shared may fit no device.
    config = work.config.model_copy(update={"kernels": "torch"})
    trainer = Trainer(config, work.rows().width, work.hookpoint, "cpu", concepts=work.concepts)
    trainer.load(work.checkpoint)
    return trainer


def main() -> None:
    """Train as one of several processes."""
    work = Fit.model_validate_json(Path(sys.argv[1]).read_bytes())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = f"cuda:{os.environ['LOCAL_RANK']}" if work.device.startswith("cuda") else work.device
    ranks = Ranks.join(device)

    def report(done: int, fvu: float) -> None:
        if ranks.first:
            sys.stdout.write(json.dumps({"done": done, "fvu": fvu}) + "\n")
            sys.stdout.flush()

    trainer = fit(work.model_copy(update={"device": device}), report, ranks)
    trainer.save(work.checkpoint)
    ranks.wait()


if __name__ == "__main__":
    main()
