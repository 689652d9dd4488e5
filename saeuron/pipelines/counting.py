"""The cost of a model, counted from its configuration files; weights are not read and may be missing.

Its networks are built on the meta device, which holds shapes and no numbers, and run there once. Counted are their
multiplications and additions, and the bytes that are alive at once. Attention is taken to be fused, as torch's is: the
matrix of all pairs of positions is never whole.
"""

import functools
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from saeuron.config import ModelConfig
from saeuron.hooks import resolve, to_rows
from saeuron.pipelines import Family, family_of
from saeuron.pipelines.loading import decoder_without_weights, image_size, without_weights
from saeuron.quiet import quiet


class Cost(NamedTuple):
    """The cost of one image; FLOP are multiplications and additions, each counted as one."""

    step: float
    """FLOP of a denoising step, both halves of a guided batch."""
    once: float
    """FLOP of decoding the picture."""
    weights: int
    """Bytes of all networks, in the precision of the run."""
    largest: int
    """Bytes of the largest of them."""
    step_bytes: int
    """Bytes alive at once in the denoiser, for an image."""
    decode_bytes: int
    """Bytes alive at once in decoding, for an image."""
    pixels: int
    places: Mapping[str, tuple[int, int]]
    """{hookpoint: (positions, D)}."""

    @property
    def alive(self) -> int:
        """Bytes alive at once, for an image, beside the weights."""
        return max(self.step_bytes, self.decode_bytes)


@functools.lru_cache(maxsize=4)
def counted(model: ModelConfig, hookpoints: tuple[str, ...]) -> Cost:
    """The cost of a model at its size, guidance and precision.

    Raises:
        BadModel: it is missing, or its family is not supported.
        UnknownName: it has no such hookpoint.
    """
    with quiet(), torch.no_grad():
        pipe = without_weights(model.spec)
        family: Family = family_of(pipe)
        net: Any = family.denoiser(pipe)
        height, width = family.sides(net.config)
        default = image_size(model.spec) or (height, width)
        scale = max(1, default[0] // height)
        sides = model.size or default
        height, width = sides[0] // scale, sides[1] // scale
        rows = 2 if model.guidance > 1 and family.doubles else 1
        size = getattr(torch, model.dtype).itemsize
        places: dict[str, tuple[int, int]] = {}
        with _shapes(pipe, family, hookpoints, places):
            step, alive = _run(net, family.probe(net.config, height, width))
            for name, encoder in family.roots(pipe).items():
                if name != family.root and any(path.split(".")[0] == name for path in hookpoints):
                    length = getattr(encoder.config, "max_position_embeddings", None) or family.tokens or 77
                    encoder(torch.zeros(1, int(length), dtype=torch.long, device="meta"))
        networks = list(family.roots(pipe).values())
        once, decode_alive, vae = 0.0, 0, decoder_without_weights(model.spec)
        if vae is not None:
            networks.append(vae)
            z = torch.empty(1, vae.config.latent_channels, height, width, device="meta")
            once, decode_alive = _run(vae.decode, {"z": z})
    held = [size * sum(p.numel() for p in network.parameters()) for network in networks]
    # Counted in float32, of which every precision is a share.
    return Cost(
        rows * step,
        once,
        sum(held),
        max(held),
        rows * alive * size // 4,
        decode_alive * size // 4,
        sides[0] * sides[1],
        places,
    )


def _run(call: Any, arguments: Mapping[str, Any]) -> tuple[float, int]:
    """(FLOP, most bytes alive at once beside parameters and arguments) of a call."""
    owner = getattr(call, "__self__", call)
    given = [t for t in tree_leaves(dict(arguments)) if isinstance(t, Tensor)]
    kept = {_key(t) for t in (*owner.parameters(), *owner.buffers(), *given)}
    with _Fused() as fused, FlopCounterMode(display=False) as counter, _Alive(kept) as alive:
        call(**arguments)
    return float(counter.get_total_flops() + fused.flops), alive.most


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Fused(TorchFunctionMode):
    """Attention as one operation, whose inner matrices are never whole."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = (
            args[i] if len(args) > i else (kwargs or {})[name] for i, name in enumerate(("query", "key", "value"))
        )
        heads = q.shape[:-2].numel()
        self.flops += 2 * heads * q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device="meta")


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that are alive at once."""

    def __init__(self, kept: set[int]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.bytes = dict.fromkeys(kept, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and (key := _key(tensor)) not in self.bytes:
                storage = tensor.untyped_storage()
                self.bytes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._dropped, key)
        return found

    def _dropped(self, key: int) -> None:
        self.now -= self.bytes.pop(key, 0)


@contextmanager
def _shapes(
    pipe: Any, family: Family, hookpoints: tuple[str, ...], places: dict[str, tuple[int, int]]
) -> Iterator[None]:
    """Note (positions, D) of the hookpoints while the context lasts."""

    def look(path: str) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
            if isinstance(given, Tensor):
                places[path] = to_rows(given).shape[1], to_rows(given).shape[2]

        def after(module: nn.Module, args: Any, output: Any) -> None:
            rows = to_rows(family.stream(module, output))
            places[path] = rows.shape[1], rows.shape[2]

        module = resolve(pipe, path)
        if path.endswith(":input"):
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    handles = [look(path) for path in hookpoints]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rate(device: str, dtype: str, seconds: float = 0.5) -> float:
    """FLOP/s of a device on a convolution and a product of rows, the best of many short attempts.

    A rough figure: what a whole model reaches depends on its sizes and on the batch.
    """
    kind = getattr(torch, dtype) if device.startswith("cuda") else torch.float32
    generator = torch.Generator(device="cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cpu").to(device=device, dtype=kind)

    side = 128 if device.startswith("cuda") else 16
    picture, kernel = drawn(2, 320, side, side), drawn(320, 320, 3, 3)
    rows, weight = drawn(side * side, 640), drawn(640, 640)
    work = 2.0 * (2 * 320 * 320 * 9 * side * side + side * side * 640 * 640)
    found: list[float] = []
    end = time.perf_counter() + seconds
    with torch.no_grad():
        while time.perf_counter() < end or len(found) < 3:
            start = time.perf_counter()
            torch.nn.functional.conv2d(picture, kernel, padding=1)
            rows @ weight
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            found.append(work / (time.perf_counter() - start))
    return max(found)
