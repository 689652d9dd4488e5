"""How much of a concept each module carries: patch its output between two prompts on the same noise.

Two prompts, p+ with the concept and p- with another in its place. Latents z_t are those of p+'s own generation. With
D = eps(z_t, p+) - eps(z_t, p-), of the conditional half alone, a set of modules carries

    share(t) = <eps_patched - eps(p-), D> / |D|^2

where eps_patched is p-'s prediction with the outputs of these modules taken from p+'s. 1: all of it passes through
them; 0: none. Shares of single modules need not sum to 1. The share is the same for a denoiser that predicts v or a
velocity, which at a given z_t is a linear function of eps. (Activation patching; the graded share and its control are
this project's.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import latent_shape, sample
from saeuron.hooks import Step, attached, hookpoints
from saeuron.noise import generator, initial_noise
from saeuron.pipelines import family_of


class Pair(NamedTuple):
    """Prompts that differ in one concept; `other` names neither the concept nor says the rest alike: the control."""

    shown: str
    """p+, with the concept."""
    instead: str
    """p-, the same sentence with another concept."""
    other: str
    """Another sentence with that other concept: what passes from it carries nothing of the first."""


@dataclass(frozen=True)
class Share:
    """Shares of modules, means over pairs and timesteps."""

    hookpoints: tuple[str, ...]
    share: float
    low: float
    """Lower end of the 95 % interval of a bootstrap over pairs."""
    high: float
    by_timestep: Mapping[int, float]
    n: int
    """Pairs."""


class Part(NamedTuple):
    """Some of the numbers of every row at a hookpoint, such as what one attention head gives."""

    hookpoint: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.hookpoint}[{self.start}:{self.stop}]"


Site = str | Part
"""The target of a patch: all of a hookpoint, or a part of its rows."""


@dataclass(frozen=True)
class Measured:
    """Shares of groups, one for each pair."""

    timesteps: tuple[int, ...]
    """[T], descending."""
    values: NDArray[np.float64]
    """[groups, T, pairs]."""


def measure(
    pipe: Any,
    pairs: Sequence[Pair],
    groups: Sequence[Sequence[Site]],
    model: ModelConfig | None = None,
    seed: int = 0,
    control: bool = False,
) -> Measured:
    """The share of each group of sites of the denoiser, patched together, for each step and pair.

    One generation of 3 n images, n the number of pairs; then for each step a pass of 3 n rows, and one of n for each
    group.

    Args:
        control: take what is patched from `Pair.other` in place of `Pair.shown`; the share is then expected near 0.

    Raises:
        UnknownName: there is no such hookpoint.
        ConfigError: a hookpoint is not in the denoiser, or the denoiser does not tell two prompts apart.
    """
    family, model = family_of(pipe), model or ModelConfig()
    paths = sorted({_path(site) for group in groups for site in group})
    for path in paths:
        if path.split(".")[0] != family.root:
            raise ConfigError(f"{path} is not in the denoiser; shares are of modules of {family.root}.")
    n, net = len(pairs), family.denoiser(pipe)
    made = calls(pipe, net, pairs, model, seed)
    found = np.zeros((len(groups), len(made), n))
    rows = slice(2 * n, None) if control else slice(n)
    for k, call in enumerate(made):
        given: dict[str, Tensor] = {}
        with attached(pipe, readers={path: _keep(given, path, rows) for path in paths}):
            shown, instead, _ = predicted(net, call).chunk(3)
        whole = (shown - instead).flatten(1).double()
        size = whole.square().sum(1)
        if not bool((size > 0).all()):
            raise ConfigError(
                f"the denoiser gives the same for {pairs[int(size.argmin())].shown!r} and "
                f"{pairs[int(size.argmin())].instead!r} at timestep {call.timestep}; take prompts that differ."
            )
        # p- alone from here on. Its own prediction is made anew, because a smaller batch may round differently.
        alone = call.third(1, n)
        plain = predicted(net, alone)
        for g, group in enumerate(groups):
            with attached(pipe, editors=_patches(group, given)):
                moved = (predicted(net, alone) - plain).flatten(1).double()
            found[g, k] = ((moved * whole).sum(1) / size).cpu().numpy()
    return Measured(tuple(call.timestep for call in made), found)


def shares(
    pipe: Any,
    pairs: Sequence[Pair],
    groups: Sequence[Sequence[Site]],
    model: ModelConfig | None = None,
    seed: int = 0,
    control: bool = False,
) -> list[Share]:
    """The result of `measure` as means over pairs and timesteps, with intervals."""
    n, found = len(pairs), measure(pipe, pairs, groups, model, seed, control)
    result = []
    for group, of in zip(groups, found.values, strict=True):
        low, high = interval(of.mean(0), seed)
        steps = {t: float(mean) for t, mean in zip(found.timesteps, of.mean(1), strict=True)}
        result.append(Share(tuple(map(str, group)), float(of.mean()), low, high, steps, n))
    return result


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of values [pairs], by a bootstrap over pairs."""
    draws = torch.randint(len(values), (1000, len(values)), generator=generator(seed, "bootstrap")).numpy()
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _path(site: Site) -> str:
    return site if isinstance(site, str) else site.hookpoint


def _keep(given: dict[str, Tensor], path: str, rows: slice) -> Any:
    """A reader that keeps the rows whose values are patched into p-."""

    def reader(step: Step, output: Tensor, source: Tensor | None) -> None:
        del step, source
        given[path] = output[rows]

    return reader


def _patches(group: Sequence[Site], given: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Editors that put the kept values, or parts of them, in place of p-'s own."""

    def patch(site: Site) -> Any:
        def editor(step: Step, output: Tensor) -> Tensor:
            del step
            kept = given[_path(site)]
            if isinstance(site, str):
                return kept
            where = 1 if output.ndim == 4 else output.ndim - 1
            output, size = output.clone(), site.stop - site.start
            output.narrow(where, site.start, size).copy_(kept.narrow(where, site.start, size))
            return output

        return editor

    editors: dict[str, list[Any]] = {}
    for site in group:
        editors.setdefault(_path(site), []).append(patch(site))
    return editors


class Call(NamedTuple):
    """A call of the denoiser with 3 n conditional rows: n of p+, n of p-, n of the control, all at p+'s z_t."""

    timestep: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def third(self, which: int, n: int) -> "Call":
        """The rows of p+ (0), p- (1) or the control (2) alone."""
        return Call(self.timestep, _third(self.args, which, n), _third(self.kwargs, which, n))


def calls(pipe: Any, net: nn.Module, pairs: Sequence[Pair], model: ModelConfig, seed: int) -> list[Call]:
    """The calls that the pipeline makes, with the latents of p+ in every row, and without the unconditional half."""
    n, found = len(pairs), list[Call]()
    texts = [text for column in zip(*pairs, strict=True) for text in column]
    noise = initial_noise(seed, [(str(i % n), 0) for i in range(3 * n)], latent_shape(pipe, model))

    def reader(step: Step, output: Tensor, source: Tensor | None) -> None:
        del output, source
        at.append(step.timestep)
        guided.append(step.guided)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The rows of p- and of the control start each step from p+'s latents: theirs are of no account.
        def same(value: Tensor) -> Tensor:
            rows = value.chunk(len(value) // n)
            return torch.cat([rows[3 * (i // 3)] for i in range(len(rows))])

        if args:
            args = (same(args[0]), *args[1:])
        else:
            kwargs = kwargs | {(name := _sample(kwargs)): same(kwargs[name])}
        given.append((args, kwargs))
        return args, kwargs

    at: list[int] = []
    guided: list[bool] = []
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    first = next(p for p, m in hookpoints(pipe).items() if m is _first_module(net))
    handle = net.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with attached(pipe, readers={first: reader}):
            sample(pipe, texts, noise, model)
    finally:
        handle.remove()
    for timestep, both, (args, kwargs) in zip(at, guided, given, strict=True):
        taken = (lambda v: _conditional(v, 3 * n)) if both else (lambda v: v)
        found.append(Call(timestep, taken(args), taken(kwargs)))
    return found


_NO_BATCH = ("img_ids", "txt_ids")
"""Arguments of Flux that are the same for every row, and have no dimension for rows."""


def _third(value: Any, which: int, n: int) -> Any:
    """The rows of p+, p- or the control of every tensor that holds those of all three."""
    if isinstance(value, Tensor):
        return value[which * n : (which + 1) * n] if value.ndim and len(value) == 3 * n else value
    if isinstance(value, dict):
        return {name: each if name in _NO_BATCH else _third(each, which, n) for name, each in value.items()}
    return tuple(_third(each, which, n) for each in value) if isinstance(value, tuple) else value


def _sample(kwargs: Mapping[str, Any]) -> str:
    """The name of the latents among the denoiser's keyword arguments."""
    return "sample" if "sample" in kwargs else "hidden_states"


def _first_module(net: nn.Module) -> nn.Module:
    """The module that takes the latents: every denoiser runs it once a call."""
    return next(m for name, m in net.named_modules() if name in ("conv_in", "pos_embed", "x_embedder"))


def _conditional(value: Any, rows: int) -> Any:
    """The second half of every tensor that holds the rows of both."""
    if isinstance(value, Tensor):
        return value[rows:] if value.ndim and len(value) == 2 * rows else value
    if isinstance(value, dict):
        return {name: _conditional(each, rows) for name, each in value.items()}
    return tuple(_conditional(each, rows) for each in value) if isinstance(value, tuple) else value


@torch.no_grad()
def predicted(net: nn.Module, call: Call) -> Tensor:
    """The prediction of a call, in float32. Half of PixArt's output are variances, which no image is made of."""
    output = net(*call.args, **call.kwargs)
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    given = call.args[0] if call.args else call.kwargs[_sample(call.kwargs)]
    return (tensor[:, : given.shape[1]] if tensor.ndim == 4 else tensor).float()
