"""The cost of capture and of a removal, beside plain generation of the same images.

    python -m benchmarks.cost.overhead --images 96 --repeats 5

The kinds take turns in one process, so that a busy machine slows them alike; the ratio is of the fastest turns, with
the spread of the ratios of each round beside it. Capture is at the hookpoints of canvas20.yaml, all five at once, and
writes its shards as a run does; the removal is of a style, at three of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.results import Figure, parser, show
from flows.config import load
from saeuron.canvas.evaluation import requests
from saeuron.capturing import capture
from saeuron.config import RunConfig
from saeuron.generation import generate
from saeuron.hooks import attached, width
from saeuron.methods.removal import Removal, removed
from saeuron.methods.saeuron import build_edit
from saeuron.pipelines.loading import load_pipeline
from saeuron.profiles import DomainTotals, profile
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.scoring import Accumulator
from storage.dense import activations, shards


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--images", type=int, default=96)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--latents", type=int, default=32, help="n of the removal")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    config = load("canvas20")
    pipe, model = load_pipeline("canvas20"), config.model
    images = requests("train", 1)[: options.images]

    def plain() -> None:
        for _ in generate(pipe, images, model, 0):
            pass

    def captured() -> None:
        with tempfile.TemporaryDirectory() as folder:
            samples: dict[str, list[tuple[str, dict[str, bytes]]]] = {h: [] for h in config.hookpoints}
            for request, _, arrays, _ in capture(pipe, images, config.hookpoints, model, config.capture):
                for hookpoint, array in arrays.items():
                    samples[hookpoint].append((request.key, {"npy": activations.encode(array)}))
            for hookpoint, members in samples.items():
                shards.write_shard(Path(folder) / hookpoint / "0.tar", members, {})

    removal = _removal(pipe, config, images, options.latents)

    def without() -> None:
        with removed(pipe, [removal]):
            plain()

    kinds: dict[str, Callable[[], None]] = {"plain": plain, "capture": captured, "removal": without}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    plain()
    for _ in range(options.repeats):
        for name, run in kinds.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    base = min(times["plain"])
    figures = [Figure("plain generation", len(images) / base, "images/s")]
    for name in ("capture", "removal"):
        best = min(times[name])
        figures.append(
            Figure(f"generation with {name}", len(images) / best, "images/s", len(images) / base, best / base)
        )
        rounds = [a / b for a, b in zip(times[name], times["plain"], strict=True)]
        figures.append(Figure(f"  spread of {name}/plain over rounds", statistics.pstdev(rounds), "ratio", None, None))
    show(figures, options.json)


def _removal(pipe: object, config: RunConfig, images: list, latents: int) -> Removal:  # type: ignore[type-arg]
    """A removal as a run makes it, from SAEs of the run's size; their weights need no training to be timed."""
    edits = []
    for hookpoint in config.domains["style"].hookpoints:
        size = width(pipe, hookpoint)
        assert size is not None
        info = SAEInfo(config.train.variant, size, config.train.latents(size), config.train.k, hookpoint)
        sae, totals = SAE(info).requires_grad_(False), []
        for part in (images[:16], images[16:32]):
            reader = Accumulator(sae, "conditional")
            with attached(pipe, readers={hookpoint: reader}):
                for _ in generate(pipe, part, config.model, 0):
                    pass
            totals.append(reader.totals())
        edits.append(build_edit(sae, profile(totals[0], DomainTotals.of(totals)), latents, -1.0))
    return Removal("benchmark", "style", "saeuron", {}, tuple(edits))


if __name__ == "__main__":
    main()
