"""Hooks inside networks that `torch.compile` compiled whole.

Compiled code runs no hooks. So while hooks are attached nothing that was compiled before runs
(`torch.compiler.set_stance`), and the network is compiled once more, by the user's compiler, with its hooks inside.
Each hook is one operator in that graph, `saeuron::act`: the compiler knows only that it gives a tensor of the same
shape. What it does is looked up when it runs, by the number of its place. So another removal at the same places runs
the same code, and what the user's compiler made before is as it was when the hooks are gone.

A network runs uncompiled meanwhile where this cannot be: where gradients are wanted, where its weights are changed, and
where something else runs it, such as offloading. Parts that were compiled one by one stay compiled if no hook lies in
them.
"""

import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Act = Callable[[Tensor, Tensor | None], Tensor | None]
"""What a hook does: called with a module's output and first input; returns the new output, or None."""

_ACTS: dict[int, tuple[nn.Module, Act]] = {}
"""{number of a place: (the network that it lies in, what is done there now)}, in the order of attaching."""
_PLACES: dict[tuple[str, int], int] = {}
"""{(place, how many hooks were there already): its number}; numbers are given once."""
_MADE: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Callable[..., Any]]] = WeakKeyDictionary()
"""{network: {numbers of its hooks: the compiled function}}."""


@torch.library.custom_op("saeuron::act", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def act(output: Tensor, source: Tensor | None, place: int) -> Tensor:
    """What is done at a place now, as an operator; the result is new memory, as operators must return."""
    new = _ACTS[place][1](output, source)
    return torch.empty_like(output).copy_(output if new is None else new)


@act.register_fake
def _(output: Tensor, source: Tensor | None, place: int) -> Tensor:
    return torch.empty_like(output)


@contextmanager
def placed(network: nn.Module, path: str, does: Act) -> Iterator[int]:
    """Say what is done at a place of a network while the context lasts; yields its number."""
    taken = 0
    while (number := _PLACES.setdefault((path, taken), len(_PLACES))) in _ACTS:
        taken += 1
    _ACTS[number] = network, does
    try:
        yield number
    finally:
        del _ACTS[number]


def _again(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(network).forward(network, *args, **kwargs)


def _compiler(attribute: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]] | None:
    """What the user compiled a network with, with all settings; None if it was not compiled whole."""
    if (context := getattr(attribute, "dynamo_ctx", None)) is not None:
        return context
    made = getattr(attribute, "_compiled_call_impl", None)
    return None if made is None else inspect.getclosurevars(made).nonlocals.get("self")


class Forward:
    """What stands for a network's `forward` while hooks are attached: the compiled function that has them inside."""

    def __init__(self, network: nn.Module, function: Callable[..., Any] | None) -> None:
        self.network, self.function = network, function
        functools.update_wrapper(self, type(network).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it; uncompiled where gradients are wanted, or there is no function."""
        if self.function is None or torch.is_grad_enabled():
            return type(self.network).forward(self.network, *args, **kwargs)
        with _compiling():
            return self.function(self.network, *args, **kwargs)


@contextmanager
def _compiling() -> Iterator[None]:
    """Run compiled code, though `attached` forbids it."""
    with torch.compiler.set_stance("default"), torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        yield


@contextmanager
def inside(attribute: Any, hooked: Collection[nn.Module], allowed: bool) -> Iterator[None]:
    """Let a network that was compiled run compiled, with the hooks inside that are attached by now.

    Args:
        attribute: the network, or what wraps it, as the pipeline holds it.
        hooked: modules with hooks.
        allowed: False: everything in it runs uncompiled.
    """
    network, compiler = getattr(attribute, "_orig_mod", attribute), _compiler(attribute)
    before = vars(network).get("forward")
    with ExitStack() as stack:
        if before is not None and getattr(before, "function", None) is None:
            pass  # Something else runs the network, such as offloading, or its weights are changed.
        elif compiler is None or not allowed:
            if compiler is not None:
                _set(stack, network, "forward", Forward(network, None))
            for part in network.modules():
                _keep(stack, part, allowed and not any(module in hooked for module in part.modules()))
        elif not any(module in hooked for module in network.modules()):
            _keep(stack, attribute, True)
        else:
            _set(stack, network, "forward", Forward(network, _made(network, compiler)))
        yield


def _made(network: nn.Module, compiler: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[..., Any]:
    """The network's compiled function with the hooks that it has now."""
    numbers = tuple(number for number, (owner, _) in _ACTS.items() if owner is network)
    made = _MADE.setdefault(network, {})
    if numbers not in made:
        # Compiled code is kept by the function's code object: with one of its own, no other is touched.
        made[numbers] = compiler(types.FunctionType(_again.__code__.replace(), globals()))
    return made[numbers]


def _keep(stack: ExitStack, part: nn.Module, compiled: bool) -> None:
    """Let a part that was compiled by itself run so, or not."""
    name = "forward" if hasattr(part, "dynamo_ctx") else "_compiled_call_impl"
    made = vars(part).get(name) if name == "forward" else part._compiled_call_impl
    if made is None:
        return
    plain = getattr(part, "_orig_mod", part)._call_impl

    @functools.wraps(made)
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return plain(*args, **kwargs)
        with _compiling():
            return made(*args, **kwargs)

    if compiled:
        _set(stack, part, name, run)
    else:
        _set(stack, part, name, plain if name == "forward" else None)


def _set(stack: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set a module's own attribute until the stack ends."""
    own, before = name in vars(module), vars(module).get(name)
    object.__setattr__(module, name, value)

    def back() -> None:
        if own:
            object.__setattr__(module, name, before)
        else:
            object.__delattr__(module, name)

    stack.callback(back)
