"""Cost of removals: the time of generation with each, relative to generation without."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.methods.removal import Removal, removed


def overhead(
    pipe: Any,
    removals: Mapping[str, Removal],
    images: Sequence[Request],
    model: ModelConfig,
    seed: int = 0,
    repeats: int = 3,
) -> dict[str, float]:
    """{name: time with the removal / time without}, the median over `repeats` rounds.

    In each round plain generation and every removal take turns, so that a busy machine slows all alike. One more round
    comes first, to warm up, and does not count.
    """
    ratios: dict[str, list[float]] = {name: [] for name in removals}
    for round_ in range(repeats + 1):
        plain = _seconds(pipe, [], images, model, seed)
        for name, removal in removals.items():
            taken = _seconds(pipe, [removal], images, model, seed)
            if round_:
                ratios[name].append(taken / plain)
    return {name: statistics.median(values) for name, values in ratios.items()}


def _seconds(pipe: Any, removals: Sequence[Removal], images: Sequence[Request], model: ModelConfig, seed: int) -> float:
    began = time.perf_counter()
    with removed(pipe, removals, any_model=True) as attached:
        for _ in generate(pipe, images, model, seed, extra=attached.call):
            pass
    return time.perf_counter() - began
