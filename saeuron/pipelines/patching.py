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
    """What modules carry, the mean over pairs and timesteps."""

    hookpoints: tuple[str, ...]
    share: float
    low: float
    """Lower end of the 95 % interval of a bootstrap over pairs."""
    high: float
    by_timestep: Mapping[int, float]
    n: int
    """Pairs."""


def shares(
    pipe: Any,
    pairs: Sequence[Pair],
    groups: Sequence[Sequence[str]],
    model: ModelConfig | None = None,
    seed: int = 0,
    control: bool = False,
) -> list[Share]:
    """The share of each group of hookpoints of the denoiser, patched together.

    One generation of 3 n images, then one pass of the denoiser for each step and group, n the number of pairs.

    Args:
        control: take outputs from `Pair.other` in place of `Pair.shown`; the share is then expected near 0.

    Raises:
        UnknownName: there is no such hookpoint.
        ConfigError: a hookpoint is not in the denoiser, or the denoiser does not tell two prompts apart.
    """
    family, model = family_of(pipe), model or ModelConfig()
    for path in (path for group in groups for path in group):
        if path.split(".")[0] != family.root:
            raise ConfigError(f"{path} is not in the denoiser; shares are of modules of {family.root}.")
    n, net = len(pairs), family.denoiser(pipe)
    calls = _calls(pipe, net, pairs, model, seed)
    found = np.zeros((len(groups), len(calls), n))
    for k, call in enumerate(calls):
        plain = _run(net, call)
        shown, instead, _ = plain.chunk(3)
        whole = (shown - instead).flatten(1).double()
        size = whole.square().sum(1)
        if not bool((size > 0).all()):
            raise ConfigError(
                f"the denoiser gives the same for {pairs[int(size.argmin())].shown!r} and "
                f"{pairs[int(size.argmin())].instead!r} at timestep {call.timestep}; take prompts that differ."
            )
        for g, group in enumerate(groups):
            with attached(pipe, editors={path: [_patch(n, control)] for path in group}):
                patched = _run(net, call).chunk(3)[1]
            moved = (patched - instead).flatten(1).double()
            found[g, k] = ((moved * whole).sum(1) / size).cpu().numpy()
    draws = torch.randint(n, (1000, n), generator=generator(seed, "bootstrap")).numpy()
    result = []
    for g, group in enumerate(groups):
        each = found[g].mean(0)
        low, high = np.quantile(each[draws].mean(1), (0.025, 0.975))
        steps = {call.timestep: float(found[g, k].mean()) for k, call in enumerate(calls)}
        result.append(Share(tuple(group), float(each.mean()), float(low), float(high), steps, n))
    return result


def _patch(n: int, control: bool) -> Any:
    """An editor that gives the rows of p- those of p+, or those of the control."""

    def editor(step: Step, output: Tensor) -> Tensor:
        del step
        output = output.clone()
        output[n : 2 * n] = output[2 * n :] if control else output[:n]
        return output

    return editor


class _Call(NamedTuple):
    """A call of the denoiser with 3 n conditional rows: n of p+, n of p-, n of the control, all at p+'s z_t."""

    timestep: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _calls(pipe: Any, net: nn.Module, pairs: Sequence[Pair], model: ModelConfig, seed: int) -> list[_Call]:
    """The calls that the pipeline makes, with the latents of p+ in every row, and without the unconditional half."""
    n, calls = len(pairs), list[_Call]()
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
        calls.append(_Call(timestep, taken(args), taken(kwargs)))
    return calls


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
def _run(net: nn.Module, call: _Call) -> Tensor:
    """The prediction of a call, in float32. Half of PixArt's output are variances, which no image is made of."""
    output = net(*call.args, **call.kwargs)
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    given = call.args[0] if call.args else call.kwargs[_sample(call.kwargs)]
    return (tensor[:, : given.shape[1]] if tensor.ndim == 4 else tensor).float()
