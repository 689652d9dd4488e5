"""Training from shards against training from memory, the same rows in the same order, in one run.

    python -m benchmarks.data.training --width 320 --expansion 8 --images 200 --steps 60

The shards are written first, then each kind trains a few steps in turn, so that a busy machine slows both alike; the
figure is rows a second over all turns, with the spread of the ratio over turns. Reading keeps two pools in memory.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import Figure, parser, show
from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import Trainer
from storage.dense import activations, shards
from storage.dense.activations import ActivationRows


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--width", type=int, default=320, help="D")
    arguments.add_argument("--expansion", type=int, default=8)
    arguments.add_argument("--batch", type=int, default=2048)
    arguments.add_argument("--images", type=int, default=200, help="members of 12 steps x 256 positions")
    arguments.add_argument("--turns", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=40, help="of each turn; together about an epoch or more")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    config = SAEConfig(expansion=options.expansion, batch=options.batch, steps=options.turns * options.steps)
    with tempfile.TemporaryDirectory() as folder:
        rows = ActivationRows(_shards(Path(folder), options.images, options.width))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held = list(_some(rows.batches(config.batch, config.seed), config.steps))
        streams = {"shards": rows.batches(config.batch, config.seed), "memory": iter(held)}
        trainers = {kind: Trainer(config, rows.width, "") for kind in streams}
        for trainer in trainers.values():
            trainer.initialise(tensor_of(held[0]))
        taken: dict[str, list[float]] = {kind: [] for kind in streams}
        for turn in range(options.turns):
            # Whoever is first in a turn finds a colder machine: they change places.
            for kind in sorted(streams, reverse=bool(turn % 2)):
                start = time.perf_counter()
                for batch in _some(streams[kind], options.steps):
                    trainers[kind].step(tensor_of(batch))
                taken[kind].append(time.perf_counter() - start)
    assert all(torch.equal(a, b) for a, b in zip(*(t.variant.parameters() for t in trainers.values()), strict=True)), (
        "the same rows must give the same weights"
    )
    total = options.turns * options.steps * options.batch
    ratios = [s / m for s, m in zip(taken["shards"], taken["memory"], strict=True)]
    ratio = sum(taken["shards"]) / sum(taken["memory"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = [
        Figure("from memory", total / sum(taken["memory"]), "rows/s"),
        Figure("from shards", total / sum(taken["shards"]), "rows/s", total / sum(taken["memory"]), 1 / ratio),
        Figure("time, shards over memory", ratio, "ratio", 1.0, ratio),
        Figure("spread of that over turns", statistics.stdev(ratios), "ratio"),
        Figure("rows on disk", rows.rows, "rows"),
        Figure("peak memory, the rows in memory included", peak / 1024, "MiB"),
        Figure("peak memory before training", memory / 1024, "MiB"),
    ]
    show(figures, options.json)


def _some(batches: Iterator[NDArray[Any]], count: int) -> Iterator[NDArray[Any]]:
    for _ in range(count):
        yield next(batches)


def _shards(folder: Path, images: int, width: int) -> list[Path]:
    """`images` members of 12 steps x 256 positions, 100 a shard: sums of a few directions, float16."""
    noise = np.random.default_rng(0)
    directions = noise.standard_normal((4 * width, width)).astype(np.float32) / width**0.5
    paths = []
    for first in range(0, images, 100):
        members = []
        for image in range(first, min(first + 100, images)):
            rows = directions[noise.integers(0, len(directions), (12 * 256, 8))].sum(1)
            array = rows.reshape(12, 256, width).astype(np.float16)
            members.append((f"image{image:05}", {"npy": activations.encode(array)}))
        paths.append(folder / f"{first:05}.tar")
        shards.write_shard(paths[-1], members, {})
    return paths


if __name__ == "__main__":
    main()
