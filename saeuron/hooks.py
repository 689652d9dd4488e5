"""Hookpoints: find a module by its dotted path, see its output or input as rows, read the timestep.

A hookpoint is a module of the denoiser or of a text encoder: `unet.mid_block` is its output, `unet.mid_block:input` its
first argument. Hooks are attached by a context manager and removed at its end. The timestep comes from the denoiser's
own argument, never from counting calls. Differences between pipeline families are in `saeuron.pipelines`.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saeuron.config import Half
from saeuron.errors import ConfigError, SaeuronError, UnknownName
from saeuron.pipelines import Family, family_of
from saeuron.pipelines.base import Rows
from saeuron.pipelines.calls import caller
from saeuron.pipelines.compiled import Act, act, inside, placed

INPUT = ":input"
"""Suffix of a hookpoint that is a module's first argument."""
WRAPPED = "._orig_mod"
"""What a module's path has more where `torch.compile` wrapped it."""


def device_of(pipe: Any) -> torch.device:
    """The device that the denoiser runs on, also where its weights are offloaded; the CPU if it has none."""
    return family_of(pipe).device(pipe)


def hookpoints(pipe: Any) -> dict[str, nn.Module]:
    """Every module that can be hooked, by its dotted path from the pipeline; `PATH:input` is its input.

    What `torch.compile` wrapped has the path of the wrapper.
    """
    roots = family_of(pipe).roots(pipe)
    found = ((f"{root}.{name}", m) for root, inner in roots.items() for name, m in inner.named_modules() if name)
    return {path.replace(WRAPPED, ""): m for path, m in found if not hasattr(m, WRAPPED[1:])}


def resolve(pipe: Any, path: str) -> nn.Module:
    """The module at `path`, for example `unet.up_blocks.1.attentions.1`, or at that path with `:input`.

    The denoiser itself is at its own name, such as `unet`.

    Raises:
        UnknownName: there is none; the message names the nearest paths.
        ConfigError: it never runs by itself, so there is nothing to see or edit.
    """
    known, bare = hookpoints(pipe), path.removesuffix(INPUT)
    if bare == family_of(pipe).root:
        return family_of(pipe).denoiser(pipe)
    usual = [name for name in known if family_of(pipe).worth_naming(name)]
    if bare not in known:
        raise UnknownName("hookpoint", path, usual or list(known))
    module = known[bare]
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        inner = [name for name in [*usual, *known] if name.startswith(f"{bare}.")]
        raise ConfigError(f"{bare} is a list of modules and never runs itself; take one in it, such as {inner[0]}.")
    if isinstance(module, torch.jit.ScriptModule) or type(module).forward is nn.Module.forward:
        raise ConfigError(
            f"{bare} never runs itself, so it cannot be edited: {bare.split('.')[0]} was traced or exported. Take the "
            "network as it was loaded; torch.compile does no harm."
        )
    return module


def to_rows(output: Tensor) -> Tensor:
    """A module's output as rows, [B, positions, D]: maps [B, D, H, W], sequences [B, P, D] and vectors [B, D]."""
    if output.ndim == 4:
        return output.flatten(2).transpose(1, 2)
    return output if output.ndim == 3 else output[:, None]


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_rows`, in the shape of `like`."""
    if like.ndim == 4:
        return rows.transpose(1, 2).reshape(like.shape)
    return rows if like.ndim == 3 else rows[:, 0]


@dataclass
class Step:
    """Current position in the generation: updated at every call of the denoiser or a text encoder, read by hooks."""

    timestep: int = -1
    """The scheduler's timestep, 0 (clean) to 999 (noise), truncated to an integer; -1 in a text encoder."""
    guided: bool = False
    """Whether the batch is [unconditional half, conditional half]."""
    index: int = -1
    """Step of this generation, from 0, by the scheduler's list; -1 in a text encoder."""
    only: Rows = "conditional"
    """Half that an unguided batch belongs to. A text encoder is called for each half separately."""
    runs: int = 0
    """Calls of the denoiser so far."""
    generation: Any = None
    """The same object for as long as one call of a pipeline lasts; None in a loop of one's own."""
    call: tuple[nn.Module, tuple[Any, ...], dict[str, Any]] | None = None
    """While a module's output or input is edited: the module, and the arguments of its call."""
    timesteps: Tensor | None = None
    """int64 [B]: the timestep of each row, where a batch has several (as in losses); then `timestep` is the first's."""

    def half(self, rows: Tensor, half: Half, images: int | None = None) -> Tensor:
        """The requested half of a batch (first dimension); empty if the batch does not hold it.

        `images`: number of images that count, from the first of each half, if the batch was padded; None: all.
        """
        if not self.guided:
            return rows[:images] if half in (self.only, "both") else rows[:0]
        if half == "both":
            return rows if images is None else torch.cat([part[:images] for part in rows.chunk(2)])
        n = len(rows) // 2
        return (rows[n:] if half == "conditional" else rows[:n])[:images]

    def kept(self, every: int) -> bool:
        """Whether the step is one of every `every` steps; always true in a text encoder."""
        return self.in_text or self.index % every == 0

    @property
    def in_text(self) -> bool:
        """Whether a text encoder runs, not the denoiser."""
        return self.timestep < 0


Reader = Callable[[Step, Tensor, Tensor | None], None]
"""Called with the step, the output and, for `update`, the input of a module. At `PATH:input`, the input takes the place
of the output, and the third argument is None."""
Editor = Callable[[Step, Tensor], Tensor | None]
"""Called with the step and a module's output (or input); returns the replacement, or None to leave it unchanged."""


@contextmanager
def _denoising(pipe: Any, family: Family, step: Step) -> Iterator[None]:
    """Keep the step up to date while the denoiser runs."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timesteps, (owner, call) = family.timesteps(args, kwargs), caller(pipe)
        first = float(timesteps[0])
        step.timestep, step.index, step.runs = int(first), family.index(owner or pipe, first), step.runs + 1
        step.timesteps = timesteps.long() if bool((timesteps != first).any()) else None
        # Schedulers make a new list of timesteps for each generation.
        step.generation = None if owner is None else getattr(getattr(owner, "scheduler", None), "timesteps", None)
        if owner is not None:
            step.guided, step.only = family.batch(owner, call, kwargs)
        else:
            twins = family.doubles and _twins(_argument(module, args, kwargs))
            step.guided, step.only = twins, "conditional"

    handle = family.denoiser(pipe).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _twins(sample: Tensor) -> bool:
    """Whether a batch is guided, where no pipeline says so: its halves then start from the same latents."""
    first, *second = sample.chunk(2)
    return bool(second) and torch.equal(first, second[0])


@contextmanager
def _encoding(pipe: Any, family: Family, step: Step) -> Iterator[None]:
    """Keep the step up to date while text encoders run.

    One `encode_prompt` runs each of them for the prompts, then for the empty or negative prompts. The batches look
    alike, so a call's half follows from its order within `encode_prompt`. Calls from elsewhere are conditional.
    """
    left: dict[str, list[Rows]] = {}
    texts = {name: module for name, module in family.roots(pipe).items() if name != family.root}
    signature, original = inspect.signature(pipe.encode_prompt), pipe.encode_prompt
    before_us = vars(pipe).get("encode_prompt")

    @functools.wraps(original)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        rows = family.text_rows(signature.bind(*args, **kwargs).arguments)
        left.update({name: list(rows) for name in texts})
        try:
            return original(*args, **kwargs)
        finally:
            left.clear()

    with ExitStack() as stack:
        for name, module in texts.items():

            def before(module: nn.Module, args: Any, name: str = name) -> None:
                del module, args
                step.timestep, step.timesteps, step.index = -1, None, -1
                step.guided, step.only = False, left[name].pop(0) if left.get(name) else "conditional"

            stack.callback(module.register_forward_pre_hook(before).remove)
        pipe.encode_prompt = encode_prompt
        try:
            yield
        finally:
            if before_us is None:
                del pipe.encode_prompt
            else:
                pipe.encode_prompt = before_us


@contextmanager
def attached(
    pipe: Any,
    *,
    readers: Mapping[str, Reader] | None = None,
    editors: Mapping[str, Sequence[Editor]] | None = None,
    compiled: bool = True,
) -> Iterator[Step]:
    """Attach readers and editors to hookpoints while the context lasts.

    Networks that `torch.compile` compiled whole are compiled once more with the hooks inside (`pipelines.compiled`).

    Args:
        readers: {hookpoint: reader}; they see the module's output (or input) before any edit.
        editors: {hookpoint: editors}, applied in order.
        compiled: whether compiled networks may run; otherwise they run uncompiled meanwhile.

    Raises:
        UnknownName: a hookpoint does not exist; nothing is attached then.
        SaeuronError: at the end, if the denoiser ran, and the module of an editor did not.
    """
    readers, editors, family, step = readers or {}, editors or {}, family_of(pipe), Step()
    modules = {path: resolve(pipe, path) for path in [*readers, *editors]}
    roots, idle = family.roots(pipe), {*editors}
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_denoising(pipe, family, step))
        if any(path.split(".")[0] in family.text_roots for path in modules):
            stack.enter_context(_encoding(pipe, family, step))
        for path, does in [
            *((path, _reading(step, reader)) for path, reader in readers.items()),
            *((path, _editing(step, (partial(_note, idle, path), *chain))) for path, chain in editors.items()),
        ]:
            place = stack.enter_context(placed(roots[path.removesuffix(INPUT).split(".")[0]], path, does))
            stack.callback(_hook(family, modules[path], path, does, step, place))
        for module in modules.values():
            _recorders_last(module)
        hooked = {*modules.values(), *(module for module in roots.values() if module._forward_pre_hooks)}
        for network in _networks(pipe, roots):
            stack.enter_context(inside(network, hooked, compiled))
        yield step
        if step.runs and idle:
            raise SaeuronError(
                f"the denoiser ran, but {min(idle)} in it did not, so nothing was edited there; it was replaced, "
                "or its texts were encoded before: attach first."
            )


def _networks(pipe: Any, roots: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Everything in a pipeline that may have been compiled, as the pipeline holds it."""
    held = {name: getattr(pipe, name) for name in roots} | vars(pipe)
    return [network for network in held.values() if isinstance(network, nn.Module)]


def _note(idle: set[str], path: str, step: Step, output: Tensor) -> None:
    """An editor that changes nothing, and notes that its module runs."""
    idle.discard(path)


def _reading(step: Step, reader: Reader) -> Act:
    def does(output: Tensor, source: Tensor | None) -> None:
        reader(step, output, source)

    return does


def _editing(step: Step, chain: Sequence[Editor]) -> Act:
    def does(output: Tensor, source: Tensor | None) -> Tensor | None:
        del source
        changed = False
        for editor in chain:
            new = editor(step, output)
            if new is not None:
                output, changed = new, True
        return output if changed else None

    return does


def _hook(family: Family, module: nn.Module, path: str, does: Act, step: Step, place: int) -> Callable[[], None]:
    """Register what is done at a hookpoint; returns the function that removes it."""
    first = next(iter(inspect.signature(module.forward).parameters), "")

    def run(call: tuple[Any, ...], tensor: Tensor, source: Tensor | None) -> Tensor | None:
        if torch.compiler.is_compiling():
            return act(tensor, source, place)
        outer, step.call = step.call, call
        try:
            return does(tensor, source)
        finally:
            step.call = outer

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = _argument(module, args, kwargs, first)
        if (new := run((module, args, kwargs), tensor, None)) is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, first: new})

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        source = args[0] if args else kwargs.get(first)
        tensor = family.stream(module, output)
        new = run((module, args, kwargs), tensor, source if isinstance(source, Tensor) else None)
        return None if new is None else family.with_stream(module, output, new)

    if path.endswith(INPUT):
        return module.register_forward_pre_hook(before, with_kwargs=True).remove
    return module.register_forward_hook(after, with_kwargs=True).remove


def _argument(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], first: str | None = None) -> Tensor:
    """A module's first argument.

    Args:
        first: its name, where it is known.

    Raises:
        SaeuronError: it is not a tensor.
    """
    value = args[0] if args else kwargs.get(first or next(iter(inspect.signature(module.forward).parameters), ""))
    if not isinstance(value, Tensor):
        raise SaeuronError(
            f"the first argument of a hooked {type(module).__name__} is {type(value).__name__}; expected a tensor."
        )
    return value


def _recorders_last(module: nn.Module) -> None:
    """Move the hooks by which transformers records hidden states behind all others, so that they record edited ones.

    SDXL takes its text embeddings from these records. The hooks stay installed, so they may precede ours.
    """
    for number, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__module__", "").startswith("transformers."):
            module._forward_hooks[number] = module._forward_hooks.pop(number)


def width(pipe: Any, path: str) -> int | None:
    """D of a hookpoint, if its module tells without being run; else None."""
    module = resolve(pipe, path)
    gives, takes = ("out_channels", "out_features"), ("in_channels", "in_features", "query_dim")
    names = (*takes, "embed_dim") if path.endswith(INPUT) else (*gives, "in_channels", "out_dim", "embed_dim")
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None
