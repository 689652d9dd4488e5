"""Changes of weights that a removal makes while it is attached.

    WeightMap     W' = W (I + up down)      the weight reads x + down^T (up^T x) instead of x
    WeightDelta   W' = W + up down

Both have low rank, so that a removal is small. The old tensors are put back at the end, so weights are restored bit
for bit.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from saeuron.errors import ConfigError, UnknownName
from saeuron.hooks import hookpoints, resolve
from saeuron.methods.parts import Change
from saeuron.sae.autoencoder import check_width


@dataclass(frozen=True, eq=False)
class WeightChange(Change):
    """A change of the weights of some linear layers."""

    layers: tuple[str, ...]
    """Dotted paths from the pipeline."""
    up: Tensor
    """float32 [rows, r]."""
    down: Tensor
    """float32 [r, D]."""

    maps: ClassVar[bool] = False
    """Whether it maps what a layer reads, and so acts on everything that reads the same."""

    def __post_init__(self) -> None:
        # A file gives a list.
        object.__setattr__(self, "layers", tuple(self.layers))

    @abstractmethod
    def new(self, weight: Tensor) -> Tensor:
        """The changed weight, float32 [O, D] of float32 [O, D]."""

    def scaled(self, strength: float) -> Self:
        """The change times `strength`."""
        return replace(self, up=strength * self.up)

    @contextmanager
    def changed(self, pipe: Any) -> Iterator[None]:
        """See `Change`; a precision other than float32 is rounded once.

        Raises:
            UnknownName: the pipeline has no such linear layer.
            ConfigError: its weights are offloaded one by one, quantized, or under an adapter that is not understood.
        """
        modules = hookpoints(pipe)
        known = {path: module for path, module in modules.items() if isinstance(_base(module), nn.Linear)}
        for path in self.layers:
            if path not in known:
                if path in modules:
                    resolve(pipe, path)  # says what is wrong with a network that was traced
                raise UnknownName("linear layer", path, known)
            if any(weight.is_meta for weight in self.weights(path, known[path])):
                # The weight is loaded again at each call, so a change would be lost.
                raise ConfigError(
                    f"the weights of {path} are offloaded one by one, so this removal cannot change them; use "
                    "enable_model_cpu_offload instead of enable_sequential_cpu_offload, or fold it in with "
                    "`saeuron removal bake`."
                )
        old: list[tuple[Tensor, Tensor]] = []
        try:
            for path in self.layers:
                for weight in self.weights(path, known[path]):
                    old.append((weight, weight.data))
                    weight.data = self.of(path, weight.data)
            yield
        finally:
            for weight, data in reversed(old):
                weight.data = data.to(weight.device)

    def weights(self, path: str, layer: nn.Module) -> list[Tensor]:
        """The weights that change in a linear layer: its own, and A of a LoRA, W x + s B A x, where x is mapped.

        Raises:
            ConfigError: the layer has an unfolded adapter that is not a sum of products, such as DoRA.
        """
        base, adapter = _base(layer), getattr(layer, "lora_A", None)
        if base is layer or getattr(layer, "merged", False):
            return [base.weight]
        if adapter is None or len(getattr(layer, "lora_magnitude_vector", ())):
            raise ConfigError(
                f"{path} has an adapter that is not a plain LoRA, so this removal cannot change its weights; fold the "
                "adapter in before: pipe.fuse_lora()."
            )
        return [base.weight, *([a.weight for a in adapter.values()] if self.maps else [])]

    def of(self, path: str, weight: Tensor) -> Tensor:
        """The changed weight of a layer, in its own precision and on its own device.

        Raises:
            ConfigError: the weight is quantized.
            WidthMismatch: it has another width than the change.
        """
        if type(weight) is not Tensor or not weight.is_floating_point():
            # A sum would be rounded to whole steps of a scale that is kept elsewhere.
            raise ConfigError(
                f"the weights of {path} are quantized, so this removal cannot change them; load the model without "
                "quantization, or take a method that edits activations, such as gated_uce or saeuron."
            )
        check_width(self.down.shape[1], weight.shape[1], f"the removal at {path}")
        moved = self.to(weight.device)
        return moved.new(weight.float()).to(weight.dtype)

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """The sum of the changes of each layer, each computed from the model's own weights.

        Layers that the same parts change stay together in one part. Columns are sorted by value, so that the rounded
        sum does not depend on the order of the parts.
        """
        who: dict[str, tuple[int, ...]] = {}
        for i, part in enumerate(parts):
            who |= {path: (*who.get(path, ()), i) for path in part.layers}
        alike: dict[tuple[int, ...], list[str]] = {}
        for path, those in who.items():
            alike.setdefault(those, []).append(path)
        return [_sum([parts[i] for i in those], paths) for those, paths in alike.items()], {}


def _base(layer: nn.Module) -> Any:
    """The layer that PEFT wrapped; another as it is."""
    return getattr(layer, "base_layer", layer)


Changed = TypeVar("Changed", bound=WeightChange)


def _sum(parts: Sequence[Changed], paths: Sequence[str]) -> Changed:
    """The sum of the parts at some of their layers."""
    if {part.layers for part in parts} != {parts[0].layers} or len(paths) < len({*parts[0].layers}):
        # By name, not as one of the parts has them: their order must not matter.
        parts = [replace(part, layers=tuple(sorted(paths))) for part in parts]
    if len(parts) == 1:
        return parts[0]
    up, down = torch.cat([p.up for p in parts], 1), torch.cat([p.down for p in parts])
    columns = torch.cat([up.T, down], 1).cpu()
    order = torch.tensor(sorted(range(len(columns)), key=lambda i: columns[i].tolist()), device=up.device)
    return replace(parts[0], up=up[:, order].contiguous(), down=down[order].contiguous())


@dataclass(frozen=True, eq=False)
class WeightMap(WeightChange):
    """W' = W + (W up) down: one map of the input for every layer, whatever its output; `up` is [D, r]."""

    kind: ClassVar[str] = "weight_map"
    maps: ClassVar[bool] = True
    order: ClassVar[int] = 0

    def new(self, weight: Tensor) -> Tensor:
        return weight + (weight @ self.up) @ self.down


@dataclass(frozen=True, eq=False)
class WeightDelta(WeightChange):
    """W' = W + up down; `up` is [O, r]."""

    kind: ClassVar[str] = "weight_delta"

    def new(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product up [O, r] down [r, D] to a matrix [O, D], float32; r is `rank`, or less if that is exact."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    r = max(1, min(rank, int((s > 1e-7 * s[0]).sum())))
    return (u[:, :r] * s[:r]).float(), v[:r].float().contiguous()
