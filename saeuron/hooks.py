"""Hookpoints: find a module by its dotted path, see its output as rows, read the timestep.

Everything attaches in a context manager and leaves nothing behind. The timestep comes from the denoiser's own
argument, never from counting calls; whether the batch holds both halves of classifier-free guidance is read from the
pipeline.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saeuron.config import Half
from saeuron.errors import SaeuronError, UnknownName

_DENOISERS = ("unet", "transformer")


def denoiser(pipe: Any) -> nn.Module:
    """The pipeline's denoising network."""
    for name in _DENOISERS:
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            return module
    raise SaeuronError(f"{type(pipe).__name__} has neither of {', '.join(_DENOISERS)}; expected a diffusers pipeline.")


def device_of(pipe: Any) -> torch.device:
    """The device of the denoising network's weights; the CPU where it has none."""
    return next(denoiser(pipe).parameters(), torch.empty(0, device="cpu")).device


def hookpoints(pipe: Any) -> dict[str, nn.Module]:
    """Every module that can be hooked, by its dotted path from the pipeline."""
    inner = denoiser(pipe)
    root = next(name for name in _DENOISERS if getattr(pipe, name, None) is inner)
    return {f"{root}.{name}": module for name, module in inner.named_modules() if name}


def resolve(pipe: Any, path: str) -> nn.Module:
    """The module at `path`, for example `unet.up_blocks.1.attentions.1`.

    Raises:
        UnknownName: there is none; the nearest paths are named.
    """
    known = hookpoints(pipe)
    if path not in known:
        usual = [n for n in known if "attentions" in n and (n.count(".") <= 4 or n.endswith(".attn2"))]
        near = usual or list(known)
        raise UnknownName("hookpoint", path, near)
    return known[path]


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


def _first(output: Any) -> Tensor:
    """The tensor of a module's output: itself, or the first of a tuple or of a diffusers output record."""
    tensor = output if isinstance(output, Tensor) else output[0]
    if not isinstance(tensor, Tensor):
        raise SaeuronError(f"a hooked module returned {type(tensor).__name__}; expected a tensor first.")
    return tensor


def _replace_first(output: Any, tensor: Tensor) -> Any:
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    return type(output)(**{**output, next(iter(output)): tensor})


@dataclass
class Step:
    """Where the denoiser is: updated at every call of it, read by the hooks inside."""

    timestep: int = -1
    """The scheduler's timestep, 0 (clean) to 999 (noise)."""
    guided: bool = False
    """Whether the batch is [unconditional half, conditional half]."""
    index: int = -1
    """Which step of this generation it is, from 0: looked up in the scheduler's own list."""

    def half(self, rows: Tensor, half: Half, images: int | None = None) -> Tensor:
        """The wanted half of a batch (first dimension); an unguided batch is all conditional.

        `images` are those that count, the first of each half, where a batch was filled up; None: all.
        """
        if not self.guided:
            return rows[:0] if half == "unconditional" else rows[:images]
        if half == "both":
            return rows if images is None else torch.cat([part[:images] for part in rows.chunk(2)])
        n = len(rows) // 2
        return (rows[n:] if half == "conditional" else rows[:n])[:images]


Reader = Callable[[Step, Tensor, Tensor | None], None]
"""Called with the step, the output and, for `update`, the input of a module."""
Editor = Callable[[Step, Tensor], Tensor | None]
"""Called with the step and a module's output; returns what replaces it, or None to leave it."""


def _index(timesteps: Tensor, timestep: int) -> int:
    found = (timesteps == timestep).nonzero()
    return int(found[0]) if len(found) else -1


@contextmanager
def _step(pipe: Any) -> Iterator[Step]:
    step = Step()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        step.timestep = int(torch.as_tensor(timestep).flatten()[0])
        step.index = _index(pipe.scheduler.timesteps, step.timestep)
        step.guided = bool(pipe.do_classifier_free_guidance)

    handle = denoiser(pipe).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield step
    finally:
        handle.remove()


@contextmanager
def attached(
    pipe: Any, *, readers: Mapping[str, Reader] | None = None, editors: Mapping[str, Sequence[Editor]] | None = None
) -> Iterator[Step]:
    """Attach readers and editors to hookpoints for as long as the context lasts.

    Args:
        readers: {hookpoint: reader}; they see what the module gave, before any edit.
        editors: {hookpoint: editors}, applied in order.

    Raises:
        UnknownName: a hookpoint does not exist; nothing is attached then.
    """
    readers, editors = readers or {}, editors or {}
    modules = {path: resolve(pipe, path) for path in [*readers, *editors]}
    with ExitStack() as stack:
        step = stack.enter_context(_step(pipe))
        for path, reader in readers.items():

            def read(module: nn.Module, args: tuple[Any, ...], output: Any, reader: Reader = reader) -> None:
                del module
                reader(step, _first(output), args[0] if args and isinstance(args[0], Tensor) else None)

            stack.callback(modules[path].register_forward_hook(read).remove)
        for path, chain in editors.items():

            def edit(
                module: nn.Module, args: tuple[Any, ...], output: Any, chain: Sequence[Editor] = tuple(chain)
            ) -> Any:
                del module, args
                tensor, changed = _first(output), False
                for editor in chain:
                    edited = editor(step, tensor)
                    if edited is not None:
                        tensor, changed = edited, True
                return _replace_first(output, tensor) if changed else None

            stack.callback(modules[path].register_forward_hook(edit).remove)
        yield step


def width(pipe: Any, path: str) -> int | None:
    """D of a hookpoint's output as far as its module tells without running it; None where it does not."""
    module = resolve(pipe, path)
    for name in ("out_channels", "out_features", "in_channels", "out_dim"):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None
