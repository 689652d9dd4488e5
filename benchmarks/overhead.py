"""What capture and a removal cost on top of plain generation of the same images.

    python -m benchmarks.overhead --images 96 --repeats 5

The kinds take turns in one process, so that a busy machine slows them alike; the ratio is of the fastest turns, with
the spread of the ratios of each round beside it. Capture writes its shards as a run does.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.results import Figure, parser, show
from saeuron.canvas.evaluation import requests
from saeuron.capture import capture
from saeuron.config import CaptureConfig, ModelConfig, SAEConfig
from saeuron.generation import generate
from saeuron.hooks import attached
from saeuron.models import load_pipeline
from saeuron.removal import Removal, build_edit, removed
from saeuron.sae import SAE, SAEInfo
from saeuron.scoring import Accumulator, profile
from storage import activations, shards

HOOKPOINT = "unet.up_blocks.0.attentions.1"


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--images", type=int, default=96)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--latents", type=int, default=32, help="n of the removal")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    pipe, model = load_pipeline("canvas"), ModelConfig()
    images = requests("train", 1)[: options.images]

    def plain() -> None:
        for _ in generate(pipe, images, model, 0):
            pass

    def captured() -> None:
        with tempfile.TemporaryDirectory() as folder:
            found = capture(pipe, images, [HOOKPOINT], model, CaptureConfig())
            samples = [(r.key, {"npy": activations.encode(a[HOOKPOINT])}) for r, _, a, _ in found]
            shards.write_shard(Path(folder) / "0.tar", samples, {})

    removal = _removal(pipe, model, images, options.latents)

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


def _removal(pipe: object, model: ModelConfig, images: list, latents: int) -> Removal:  # type: ignore[type-arg]
    """A removal as a run makes it, from an SAE of the run's size; its weights need no training to be timed."""
    width = pipe.unet.config.block_out_channels[-1]  # type: ignore[attr-defined]
    config = SAEConfig()
    sae = SAE(SAEInfo(config.variant, width, config.expansion * width, config.k, HOOKPOINT)).requires_grad_(False)
    totals = []
    for part in (images[:16], images[16:32]):
        reader = Accumulator(sae, "conditional")
        with attached(pipe, readers={HOOKPOINT: reader}):
            for _ in generate(pipe, part, model, 0):
                pass
        totals.append(reader.totals())
    return Removal("benchmark", "style", (build_edit(sae, profile(totals, 0), latents, -1.0),))


if __name__ == "__main__":
    main()
