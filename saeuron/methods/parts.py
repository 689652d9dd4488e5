"""Parts of removals: what changes a pipeline while images are generated.

An `Edit` changes the output of one module. A `Call` adds arguments to the pipeline's call. A `Change` changes the
pipeline itself, such as its weights, and restores it. A `Watch` reads some modules, edits others, and has a memory
within a generation. Methods differ in how they make parts; `saeuron.methods.removal` attaches, combines, scales and
saves them.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from saeuron.checkpoint import stripped
from saeuron.config import Half
from saeuron.errors import ConfigError
from saeuron.hooks import Reader, Step, from_rows, to_rows

Margin = Callable[[Tensor, int], Tensor]
"""How far a gate is open for each image or prompt, float32 [B] in [-1, 1] of rows [B, positions, D] of the conditional
half and a timestep; open at 0 and above. It can be differentiated with respect to the rows.
"""
KINDS: dict[str, type["Part"]] = {}
"""{kind, as written in files: class of parts}."""


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """One piece of a removal: a frozen dataclass of tensors, JSON values and tuples of parts, saved field by field."""

    kind: ClassVar[str]
    """Name of the class in files; defining a class with one registers it in `KINDS`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            KINDS[cls.kind] = cls

    @property
    def needs_guidance(self) -> bool:
        """Whether it acts only where a prediction with the prompt is set against one without."""
        return False

    @abstractmethod
    def scaled(self, strength: float) -> Self:
        """The same part at a strength from 0 (changes nothing) to 1 (unchanged).

        Raises:
            ConfigError: this kind of part cannot be scaled.
        """

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on `device`."""
        own = {name: value.to(device) for name, value in self._own().items()}
        return replace(self, **own, **{name: tuple(p.to(device) for p in parts) for name, parts in self.held().items()})

    def tensors(self) -> dict[str, Tensor]:
        """{name: tensor} of its fields; tensors of inner parts are named `field.number.name`."""
        inner = {
            f"{name}.{i}.{key}": value
            for name, parts in self.held().items()
            for i, part in enumerate(parts)
            for key, value in part.tensors().items()
        }
        return self._own() | inner

    def _own(self) -> dict[str, Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def held(self) -> dict[str, tuple["Part", ...]]:
        """{name: parts} of its fields that are tuples of parts."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in found.items() if isinstance(v, tuple) and v and all(isinstance(p, Part) for p in v)}

    def record(self) -> dict[str, Any]:
        """The kind and all fields but tensors, as JSON values."""
        inner = {name: [part.record() for part in parts] for name, parts in self.held().items()}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self._own()}
        return {"kind": self.kind, **plain, **inner}

    @staticmethod
    def restored(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Part":
        """The part that `record` and `tensors` describe, the inverse of these two."""
        told = {name: value for name, value in record.items() if name != "kind"}
        for name, value in told.items():
            if isinstance(value, list) and value and all(isinstance(v, dict) and "kind" in v for v in value):
                told[name] = tuple(Part.restored(v, stripped(f"{name}.{i}", tensors)) for i, v in enumerate(value))
        return KINDS[record["kind"]](**told, **{name: value for name, value in tensors.items() if "." not in name})

    def content(self) -> str:
        """A hash of all fields; parts are sorted by it, so that the caller's order does not matter."""
        told = hashlib.sha256(json.dumps(self.record(), sort_keys=True, default=str).encode())
        for name, value in sorted(self.tensors().items()):
            plain = value.detach().cpu().contiguous()
            told.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            told.update(plain.flatten().view(torch.uint8).numpy().data)
        return told.hexdigest()

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """Combine parts of this class from several removals, as far as possible.

        Args:
            parts: in an order that depends only on their content; see `saeuron.methods.removal.combine`.

        Returns:
            (parts, {SAE or hookpoint: number of pairs (step, latent) that several of them edit}).
        """
        return list(parts), {}


@dataclass(frozen=True, eq=False)
class Edit(Part):
    """A change of one module's output, computed row by row."""

    hookpoint: str
    half: Half
    """Half of the guided batch that is edited."""

    @property
    def needs_guidance(self) -> bool:
        """An edit of the unconditional half alone."""
        return self.half == "unconditional"

    @property
    def margin(self) -> Margin | None:
        """How far its gate is open; None if it has none."""
        return None

    @abstractmethod
    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [B, positions, D] of rows [B, positions, D]; exactly zero where nothing is edited."""

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """The change to add to a module's output, float32 of the same shape; None if its half is not in the batch."""
        rows = to_rows(output)
        chosen = step.half(rows, self.half)
        if not len(chosen):
            return None
        delta = self._delta(chosen.float(), step)
        if len(chosen) != len(rows):
            whole = torch.zeros(rows.shape, dtype=delta.dtype, device=delta.device)
            n = len(rows) // 2
            whole[n:] = delta if self.half == "conditional" else 0
            whole[:n] = delta if self.half == "unconditional" else 0
            delta = whole
        return from_rows(delta, output)

    def _delta(self, rows: Tensor, step: Step) -> Tensor:
        """`delta` of the rows of one half, each at its own timestep."""
        if step.timesteps is None:
            return self.delta(rows, step.timestep)
        each, delta = step.half(step.timesteps, self.half), torch.zeros_like(rows)
        for timestep in each.unique().tolist():
            delta[each == timestep] = self.delta(rows[each == timestep], timestep)
        return delta

    def __call__(self, step: Step, output: Tensor) -> Tensor | None:
        """The editor: see `saeuron.hooks`."""
        return add_changes([self], step, output)


def add_changes(edits: Sequence["Editor"], step: Step, output: Tensor) -> Tensor | None:
    """The output plus the changes of all edits, each computed from the same output; None if none changes it."""
    changes = [c for edit in edits if (c := edit.change(step, output)) is not None]
    return output + sum(changes[1:], changes[0]).to(output.dtype) if changes else None


def neighbours(timesteps: Tensor, timestep: int) -> tuple[int, int, float]:
    """The scored timesteps on both sides of `timestep`: (row of the noisier, row of the other, weight of the other).

    If `timestep` is scored itself, or outside the scored range, both are the same row and the weight is 0.

    Args:
        timesteps: int64 [T], in any order.
    """
    known = timesteps.tolist()
    above, below = ([t for t in known if t >= timestep], [t for t in known if t <= timestep])
    noisier, other = min(above, default=max(known)), max(below, default=min(known))
    if not above or not below:
        noisier = other = other if not above else noisier
    weight = 0.0 if noisier == other else (noisier - timestep) / (noisier - other)
    return known.index(noisier), known.index(other), weight


def at_step(values: Tensor, timesteps: Tensor, timestep: int) -> Tensor:
    """The entry of `values` [T, ...] at a timestep: exact at scored ones, linearly interpolated between them."""
    a, b, weight = neighbours(timesteps, timestep)
    return values[a] if a == b else torch.lerp(values[a], values[b], weight)


@dataclass(frozen=True, eq=False)
class Call(Part):
    """Arguments for the pipeline's call, such as a negative prompt. Texts of several removals are joined by commas."""

    kind = "call"

    arguments: dict[str, str]
    """{argument: text}."""

    @property
    def needs_guidance(self) -> bool:
        """True for a negative prompt."""
        return "negative_prompt" in self.arguments

    def scaled(self, strength: float) -> Self:
        """Refused: a text has no strength between 0 and 1."""
        raise ConfigError(f"strength {strength:g}: {', '.join(self.arguments)} has none between 0 and 1; take 0 or 1.")

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """One call with the texts of all."""
        if len(parts) == 1:
            return list(parts), {}
        joined: dict[str, set[str]] = {}
        for part in parts:
            for name, text in part.arguments.items():
                joined.setdefault(name, set()).update(text.split(", "))
        return [cls({name: ", ".join(sorted(joined[name])) for name in sorted(joined)})], {}


@dataclass(frozen=True, eq=False)
class Change(Part):
    """A change of the pipeline itself, undone when its context ends."""

    order: ClassVar[int] = 1
    """Place among the changes of a pipeline: 0 if it depends on the weights that it finds, which have to be the model's
    own; 2 if it is made and undone while the context lasts, because each puts back what it found."""

    @abstractmethod
    def changed(self, pipe: Any) -> AbstractContextManager[None]:
        """Change the pipeline; when the context ends it is restored, bit for bit."""


class Editor(Protocol):
    """Changes a module's output: an `Edit`, or an object that a `Watch` attaches."""

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """See `Edit.change`."""


class Gate(Protocol):
    """A place where a removal decides whether it acts: an `Opening`, or a `Decision` of the first step
    (`saeuron.methods.detection.decision`).
    """

    def held(self) -> AbstractContextManager[list[Tensor]]:
        """A context that yields a list, to which each reading of the gate adds margins, float32 [images] in [-1, 1].

        A gate is open at 0 and above. Margins can be differentiated with respect to what the model is given.
        """


class Opening:
    """The gate of an edit, read where it is edited."""

    def __init__(self, margin: Margin) -> None:
        self._margin = margin
        self._margins: list[Tensor] | None = None

    @contextmanager
    def held(self) -> Iterator[list[Tensor]]:
        """See `Gate.held`."""
        self._margins = []
        try:
            yield self._margins
        finally:
            self._margins = None

    def look(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        """A reader; it does nothing outside `held`."""
        del source
        if self._margins is None:
            return
        if len(rows := to_rows(step.half(output, "conditional"))):
            self._margins.append(self._margin(rows.float(), step.timestep))


def relative(reading: Tensor, threshold: Tensor) -> Tensor:
    """(reading - threshold) / (|reading| + |threshold|), in [-1, 1]; -1 where the threshold is infinite.

    No gradient flows through the divisor.
    """
    scale = (reading.detach().abs() + threshold.abs()).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(torch.isfinite(threshold), (reading - threshold) / scale, -1.0)


class Hooked(NamedTuple):
    """The hooks of a `Watch`: (hookpoint, or the denoiser's name; the function that is called there)."""

    readers: Sequence[tuple[str, Reader]]
    editors: Sequence[tuple[str, Editor]]
    gates: Sequence[Gate] = ()


@dataclass(frozen=True, eq=False)
class Watch(Part):
    """A part that reads some modules and edits others, with a memory within one generation."""

    @property
    def watched(self) -> tuple[Part, ...]:
        """The inner parts by which it looks: their latents are read and never edited."""
        return ()

    @classmethod
    @abstractmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """Readers and editors for all attached parts of this class together.

        Raises:
            ConfigError: the pipeline lacks something that the parts need.
        """
