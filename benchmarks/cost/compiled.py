"""What a saved removal costs a denoiser that `torch.compile` compiled, beside one that was not.

    saeuron run && python -m benchmarks.cost.compiled --removals workspace/removals/neon.*.safetensors

The same images are drawn by a plain pipeline and by one whose denoiser torch's default compiler compiled whole, without
and with each removal, in turn, in one process on one thread: processor seconds, the median over rounds and its ratio to
the uncompiled pipeline without removal. Compiling is timed apart, by the clock: once for the network, and once for each
set of places that removals edit. Pictures of the compiled pipeline are compared with the uncompiled one's.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.removals.steps import test_images
from benchmarks.results import Figure, parser, show
from flows.config import load
from saeuron.config import RunConfig
from saeuron.generation import Request, generate
from saeuron.methods.removal import Removal, removed
from saeuron.pipelines import family_of
from saeuron.pipelines.loading import load_pipeline


def draw(
    pipe: Any, config: RunConfig, images: Sequence[Request], removals: Sequence[Removal]
) -> tuple[NDArray[np.uint8], float]:
    """(images, uint8 [n, H, W, 3]; processor seconds)."""
    start = time.process_time()
    with removed(pipe, removals) as attached:
        made = generate(pipe, images, config.model, config.evaluate.seed, extra=attached.call)
        pictures = np.concatenate([batch for _, batch in made])
    return pictures, time.process_time() - start


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas")
    arguments.add_argument("--removals", type=Path, nargs="+", required=True)
    arguments.add_argument("--images", type=int, default=8, help="that ask for the concept, and as many for others")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    config, figures = load(options.config), list[Figure]()
    plain, compiled = (load_pipeline(config.model.spec) for _ in range(2))
    root = family_of(compiled).root
    setattr(compiled, root, torch.compile(getattr(compiled, root)))
    first = True
    for path in options.removals:
        removal = Removal.load(path)
        images = test_images(config, removal.domain, removal.concept, options.images)
        kinds = {
            "uncompiled": (plain, []),
            "uncompiled, removal": (plain, [removal]),
            "compiled": (compiled, []),
            "compiled, removal": (compiled, [removal]),
        }
        waits, pictures = {}, {}
        for name, (pipe, removals) in kinds.items():
            start = time.perf_counter()
            pictures[name] = draw(pipe, config, images, removals)[0]
            waits[name] = time.perf_counter() - start
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(options.rounds):
            for name, (pipe, removals) in kinds.items():
                times[name].append(draw(pipe, config, images, removals)[1])
        named = f"{removal.concept} by {removal.method}"
        if first:
            figures.append(Figure("compiling, once", waits["compiled"] - statistics.median(times["compiled"]), "s"))
            first = False
        wait = waits["compiled, removal"] - statistics.median(times["compiled, removal"])
        figures.append(Figure(f"{named}: compiling, once for its places", wait, "s"))
        base = statistics.median(times["uncompiled"])
        for name, spent in times.items():
            middle = statistics.median(spent)
            figures.append(Figure(f"{named}: {len(images)} images, {name}", middle, "s", base, middle / base))
            figures.append(Figure("  least and greatest of rounds", min(spent), f"to {max(spent):.3g}"))
        for kind in ("", ", removal"):
            a, b = (pictures[f"{way}{kind}"].astype(int) for way in ("compiled", "uncompiled"))
            figures.append(Figure(f"  values that differ{kind}", int((a != b).sum()), f"of {a.size}"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
