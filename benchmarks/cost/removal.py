"""What a saved removal costs while images are drawn, beside plain generation of the same images.

    saeuron run && python -m benchmarks.cost.removal --removals workspace/removals/*.safetensors

For each file, images that ask for the concept and images that ask for others, `--images` of each. Plain and edited
generation take turns in one process on one thread; a ratio is of processor time, which other programs disturb less than
the clock, and the median over rounds, with the least and the greatest.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.removals.steps import test_images
from benchmarks.results import Figure, parser, show
from flows.config import load
from saeuron.generation import generate
from saeuron.methods.removal import Removal, removed
from saeuron.pipelines.loading import load_pipeline


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas")
    arguments.add_argument("--removals", type=Path, nargs="+", required=True)
    arguments.add_argument("--images", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    config = load(options.config)
    pipe, figures = load_pipeline(config.model.spec), []
    for path in options.removals:
        removal = Removal.load(path)
        wanted = test_images(config, removal.domain, removal.concept, options.images)
        groups = {
            "asked for": [r for r in wanted if r.prompt.concepts[removal.domain] == removal.concept],
            "others": [r for r in wanted if r.prompt.concepts[removal.domain] != removal.concept],
        }
        for name, images in groups.items():

            def spent(removals: Sequence[Removal], images: list = images) -> float:  # type: ignore[type-arg]
                with removed(pipe, removals):
                    start = time.process_time()
                    for _ in generate(pipe, images, config.model, config.evaluate.seed):
                        pass
                    return time.process_time() - start

            spent([])
            ratios = []
            for _ in range(options.rounds):
                plain = spent([])
                ratios.append(spent([removal]) / plain)
            told = f"{removal.concept} by {removal.method}, {len(images)} images, {name}"
            figures.append(Figure(told, statistics.median(ratios), "x plain", None, None))
            figures.append(Figure("  least and greatest of rounds", min(ratios), f"to {max(ratios):.3f}", None, None))
        figures.append(
            Figure(f"{removal.concept} by {removal.method}: file", path.stat().st_size / 1000, "kB", None, None)
        )
    show(figures, options.json)


if __name__ == "__main__":
    main()
