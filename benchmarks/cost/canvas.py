"""Seconds to draw images with canvas beside canvas20, the smaller model that it grew from.

    python -m benchmarks.cost.canvas

The same prompts for both, float32, 12 steps, guidance 2.5, one thread. The models take turns in one process, and what
counts is processor time, which other programs disturb less than the clock; the ratio is of the medians of rounds.
"""

import statistics
import time

import torch

from benchmarks.results import Figure, parser, show
from saeuron.config import ModelConfig
from saeuron.generation import generate, requests
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt

MODELS = ("canvas20", "canvas")
OBJECTS = ("cat", "moon", "heart", "star", "key", "sun", "tree", "fish")
STYLES = ("neon", "dots", "sketch", "stripes")
"""Known to both."""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=12)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    texts = [f"A {style} picture of a {thing}." for thing in OBJECTS for style in STYLES]
    prompts = [Prompt(texts[i % len(texts)], "test") for i in range(min(options.images, len(texts)))]
    images = requests(prompts, -(-options.images // len(prompts)))[: options.images]
    pipes = {name: load_pipeline(name) for name in MODELS}

    def spent(name: str) -> float:
        config = ModelConfig(spec=name, steps=options.steps, guidance=2.5, micro_batch=32)
        start = time.process_time()
        for _ in generate(pipes[name], images, config, 0):
            pass
        return time.process_time() - start

    for name in MODELS:
        list(generate(pipes[name], images[:8], ModelConfig(spec=name, steps=1, guidance=2.5, micro_batch=8), 0))
    rounds = [{name: spent(name) for name in MODELS} for _ in range(options.rounds)]
    small, large = (statistics.median(each[name] for each in rounds) for name in MODELS)
    unit = f"s of processor, {len(images)} images"
    ratios = [each[MODELS[1]] / each[MODELS[0]] for each in rounds]
    figures = [Figure(MODELS[0], small, unit), Figure(MODELS[1], large, unit, small, large / small)]
    figures.append(Figure("  least and most of the rounds' ratios", min(ratios), f"to {max(ratios):.3f}"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
