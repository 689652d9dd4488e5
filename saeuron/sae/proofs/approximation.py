"""Test 1 of an SAE: what the prediction loses with other activations y in a hookpoint's place (2405.08366, section 4).

With z_t of a prompt's own generation, eps(x := y) the prediction with y in place, and D = eps(p+) - eps(p-) of two
prompts that differ in one concept,

    d(y)   = mean |eps(x := y) - eps(x)|^2                          all of it
    d_c(y) = | mean <eps(x := y) - eps(x), D> / |D|^2 |             along the concept

    sufficiency = 1 - d(x_hat) / d(mean x)                          1: the reconstruction does what x does
    necessity   = d(mean x + x - x_hat) / d(mean x)                 1: without it, x does no more than its mean

Of `d_c` an SAE can be compared with labels. Of `d` it cannot: a reconstruction also keeps pose and place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from saeuron.config import ModelConfig
from saeuron.noise import derive_seed
from saeuron.pipelines import family_of
from saeuron.pipelines.patching import Pair, calls, predicted
from saeuron.sae.proofs.rewriting import Rewritten

Way = Callable[[Tensor, int], Tensor]
"""x_hat, float32 [n, P or 1, D], for x [n, P, D] of p+ at a timestep; row i is of pair i."""
_DRAWS = 1000


class Distances(NamedTuple):
    """How far predictions move; float64 [T, pairs]."""

    squares: NDArray[np.float64]
    """|eps(x := y) - eps(x)|^2."""
    along: NDArray[np.float64]
    """<eps(x := y) - eps(x), D> / |D|^2."""


class Found(NamedTuple):
    """Distances with x_hat in place, with it taken away, and with the mean row."""

    kept: Distances
    taken: Distances
    mean: Distances


class Figure(NamedTuple):
    """A value and its 95 % interval, by a bootstrap over pairs."""

    value: float
    low: float
    high: float


def distances(
    pipe: Any,
    pairs: Sequence[Pair],
    hookpoint: str,
    ways: Mapping[str, Way],
    mean: Way,
    model: ModelConfig,
    *,
    seed: int = 0,
    every: int = 1,
    read: Literal["output", "update"] = "output",
) -> dict[str, Found]:
    """The cost of every way of rebuilding x, for each pair at every `every`-th step.

    Args:
        ways: {name: x_hat}.
        mean: the row that stands for x without what is rebuilt, [n, 1, D].
    """
    n, net = len(pairs), family_of(pipe).denoiser(pipe)
    names: list[tuple[str, str]] = [("", "mean"), *((name, part) for name in ways for part in ("kept", "taken"))]
    squares: dict[tuple[str, str], list[NDArray[np.float64]]] = {key: [] for key in names}
    along: dict[tuple[str, str], list[NDArray[np.float64]]] = {key: [] for key in names}

    def put(key: tuple[str, str]) -> Way:
        name, part = key

        def change(x: Tensor, timestep: int) -> Tensor:
            base = mean(x, timestep).to(x).expand_as(x)
            if part == "mean":
                return base
            x_hat = ways[name](x, timestep).to(x).expand_as(x)
            return x_hat if part == "kept" else base + x - x_hat

        return change

    for call in calls(pipe, net, pairs, model, seed)[::every]:
        shown, instead = (call.third(which, n) for which in (0, 1))
        own = predicted(net, shown).flatten(1).double()
        D = own - predicted(net, instead).flatten(1).double()
        size = D.square().sum(1).clamp(min=1e-30)
        for key in names:
            with Rewritten(hookpoint, put(key), read).attached(pipe):
                moved = predicted(net, shown).flatten(1).double() - own
            squares[key].append(moved.square().sum(1).cpu().numpy())
            along[key].append(((moved * D).sum(1) / size).cpu().numpy())
    found = {key: Distances(np.stack(squares[key]), np.stack(along[key])) for key in names}
    return {name: Found(found[name, "kept"], found[name, "taken"], found["", "mean"]) for name in ways}


def joined(parts: Sequence[Found]) -> Found:
    """The results for several groups of pairs, in the same form as for all."""
    return Found._make(
        Distances._make(np.concatenate(each, axis=1) for each in zip(*distances, strict=True))
        for distances in zip(*parts, strict=True)
    )


def figures(found: Found, seed: int = 0) -> dict[str, Figure]:
    """{`sufficiency`, `necessity`, and both `along` the concept: value and interval}."""
    n = found.mean.squares.shape[1]
    draws = np.random.default_rng(derive_seed(seed, "approximation")).integers(n, size=(_DRAWS, n))
    result = {}
    for suffix, of in (("", _all), (" along", _along)):
        mean = of(found.mean)
        parts = {
            "sufficiency": lambda chosen, mean=mean, of=of: 1 - of(found.kept)(chosen) / max(mean(chosen), 1e-30),
            "necessity": lambda chosen, mean=mean, of=of: of(found.taken)(chosen) / max(mean(chosen), 1e-30),
        }
        for name, value in parts.items():
            low, high = np.quantile([value(draw) for draw in draws], (0.025, 0.975))
            result[name + suffix] = Figure(float(value(np.arange(n))), float(low), float(high))
    return result


def _all(distances: Distances) -> Callable[[NDArray[np.int64]], float]:
    by_pair = distances.squares.mean(0)
    return lambda chosen: float(by_pair[chosen].mean())


def _along(distances: Distances) -> Callable[[NDArray[np.int64]], float]:
    by_pair = distances.along.mean(0)
    return lambda chosen: abs(float(by_pair[chosen].mean()))
