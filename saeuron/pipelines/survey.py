"""The modules of a model that are worth hooking, and the shapes of what they give; no weights are loaded.

Networks are built on the meta device and run there once: this gives shapes at the true size of any model, in seconds
and without memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saeuron.hooks import hookpoints, to_rows
from saeuron.pipelines import Family, family_of
from saeuron.pipelines.loading import image_size, without_weights


class Place(NamedTuple):
    """A module worth hooking."""

    hookpoint: str
    shape: tuple[int, ...]
    """Shape of its output for one image: (D, H, W) of a map, (positions, D) of a sequence."""
    positions: int
    width: int
    """D."""
    bytes: int
    """Bytes of its output for one image and one step, in float16. A text encoder runs once per image."""
    literature: str
    """The papers that edit there in a model of this width; empty: none is known here."""


@torch.no_grad()
def survey(spec: str | Path, size: tuple[int, int] | None = None, every: bool = False) -> list[Place]:
    """The places of a model, in the order of its modules, text encoders last.

    Args:
        spec: as for `load_pipeline`.
        size: (height, width) of images in pixels; None: the model's own.
        every: every module that gives a tensor, not only those that people choose.

    Raises:
        BadModel: the model is missing, or its family is not supported.
    """
    from saeuron.quiet import quiet

    with quiet():
        pipe = without_weights(spec)
    family: Family = family_of(pipe)
    net: Any = family.denoiser(pipe)
    height, width = family.sides(net.config)
    if size is not None and (default := image_size(spec)):
        scale = default[0] // height
        height, width = size[0] // scale, size[1] // scale
    found: dict[str, Place] = {}
    chosen = {path: m for path, m in hookpoints(pipe).items() if every or family.worth_naming(path)}
    with _noting(family, chosen, found):
        net(**family.probe(net.config, height, width), return_dict=False)
        for name, encoder in family.roots(pipe).items():
            if name != family.root:
                length = getattr(encoder.config, "max_position_embeddings", None) or family.tokens or 77
                encoder(torch.zeros(1, int(length), dtype=torch.long, device="meta"))
    return [found[path] for path in chosen if path in found]


@contextmanager
def _noting(family: Family, chosen: dict[str, nn.Module], found: dict[str, Place]) -> Iterator[None]:
    """Note what modules give while the context lasts."""

    def note(path: str, module: nn.Module, output: Any) -> None:
        entry = output if isinstance(output, Tensor) else output[family.entry(module)] if len(output) else None
        if not isinstance(entry, Tensor) or not 2 <= entry.ndim <= 4:
            return
        _, positions, width = to_rows(entry).shape
        who = [who for end, d, who in family.literature if width == d and f".{path}".endswith(f".{end}")]
        found[path] = Place(path, tuple(entry.shape[1:]), positions, width, 2 * positions * width, "".join(who))

    with ExitStack() as stack:
        for path, module in chosen.items():

            def after(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                del args
                note(path, module, output)

            stack.callback(module.register_forward_hook(after).remove)
        yield
