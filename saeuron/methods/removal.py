"""A removal: what takes one concept out of a model while images are generated, and the file it lives in.

A removal is made of parts. An `Edit` changes the output of one module; a `Call` adds arguments to the pipeline's call;
a `Change` changes the pipeline itself, such as its weights, and takes that back; a `Watch` looks at some modules, acts
at others, and remembers.
Methods differ in how they make parts; attaching, combining, scaling and saving are the same for all of them.
"""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from saeuron.checkpoint import load_tensors, save_tensors, stripped
from saeuron.config import Half
from saeuron.errors import BadWeights, ConfigError, OtherModel
from saeuron.hooks import Reader, Step, attached, device_of, from_rows, to_rows
from saeuron.pipelines.loading import origin

FORMAT = 3
"""Version of the file format. Files of other versions are refused."""
KINDS: dict[str, type["Part"]] = {}
"""Every class of parts by its `kind`, as it stands in files."""


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """One piece of a removal: a frozen dataclass of tensors, JSON values and tuples of parts, saved field by field."""

    kind: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            KINDS[cls.kind] = cls

    @abstractmethod
    def scaled(self, strength: float) -> Self:
        """The same part at a strength from 0 (changes nothing) to 1 (itself).

        Raises:
            ConfigError: this kind of part cannot be scaled.
        """

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on `device`."""
        own = {name: value.to(device) for name, value in self._own().items()}
        return replace(self, **own, **{name: tuple(p.to(device) for p in parts) for name, parts in self.held().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, and those of inner parts as `field.number.name`."""
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
        """The fields that are tuples of parts."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in found.items() if isinstance(v, tuple) and v and all(isinstance(p, Part) for p in v)}

    def record(self) -> dict[str, Any]:
        """The other fields, as JSON, and the kind."""
        inner = {name: [part.record() for part in parts] for name, parts in self.held().items()}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self._own()}
        return {"kind": self.kind, **plain, **inner}

    @staticmethod
    def restored(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Part":
        """The part of a record, with tensors by the names that `tensors` gives them."""
        told = {name: value for name, value in record.items() if name != "kind"}
        for name, value in told.items():
            if isinstance(value, list) and value and all(isinstance(v, dict) and "kind" in v for v in value):
                told[name] = tuple(Part.restored(v, stripped(f"{name}.{i}", tensors)) for i, v in enumerate(value))
        return KINDS[record["kind"]](**told, **{name: value for name, value in tensors.items() if "." not in name})

    def content(self) -> str:
        """A hash of all that the part is, by which parts are put in an order that nobody chose."""
        told = hashlib.sha256(json.dumps(self.record(), sort_keys=True, default=str).encode())
        for name, value in sorted(self.tensors().items()):
            plain = value.detach().cpu().contiguous()
            told.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            told.update(plain.flatten().view(torch.uint8).numpy().data)
        return told.hexdigest()

    @classmethod
    def combined(cls, parts: Sequence[Self]) -> tuple[list[Self], dict[str, int]]:
        """Parts of this class from several removals, those that can be made one made one.

        They come in an order that depends on what they are alone; see `combine`.

        Returns:
            (parts, {where: number of pairs (step, latent) that several of them edit}).
        """
        return list(parts), {}


@dataclass(frozen=True, eq=False)
class Edit(Part):
    """A change of one module's output, computed row by row."""

    hookpoint: str
    half: Half

    @abstractmethod
    def delta(self, rows: Tensor, timestep: int) -> Tensor:
        """x' - x, float32 [B, positions, D] of rows [B, positions, D]; exactly zero where nothing is edited."""

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """What the edit adds to a module's output, float32 in its shape; None where its half is not in the batch."""
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
    """The output plus the changes of all edits. Each is computed on the output itself: their order does not matter."""
    changes = [c for edit in edits if (c := edit.change(step, output)) is not None]
    return output + sum(changes[1:], changes[0]).to(output.dtype) if changes else None


def nearest_step(timesteps: Tensor, timestep: int) -> int:
    """The row of the scored timestep nearest to `timestep`; of two equally near, the noisier."""
    return int((2 * (timesteps - timestep).abs() - (timesteps > timestep).long()).argmin())


def neighbours(timesteps: Tensor, timestep: int) -> tuple[int, int, float]:
    """The scored timesteps on both sides of `timestep`: (row of the noisier, row of the other, weight of the other).

    Where it is scored itself, or beyond the last on one side, both are one row, and the weight is 0.
    """
    known = timesteps.tolist()
    above, below = ([t for t in known if t >= timestep], [t for t in known if t <= timestep])
    noisier, other = min(above, default=max(known)), max(below, default=min(known))
    if not above or not below:
        noisier = other = other if not above else noisier
    weight = 0.0 if noisier == other else (noisier - timestep) / (noisier - other)
    return known.index(noisier), known.index(other), weight


def at_step(values: Tensor, timesteps: Tensor, timestep: int) -> Tensor:
    """The entry of `values` [T, ...] at a timestep: between two scored ones linearly, at a scored one its own bits."""
    a, b, weight = neighbours(timesteps, timestep)
    return values[a] if a == b else torch.lerp(values[a], values[b], weight)


@dataclass(frozen=True, eq=False)
class Call(Part):
    """Arguments for the pipeline's call, such as a negative prompt. Texts of several removals are joined by commas."""

    kind = "call"

    arguments: dict[str, str]

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
    """A change of the pipeline itself for as long as a context lasts."""

    @abstractmethod
    def changed(self, pipe: Any) -> AbstractContextManager[None]:
        """Change the pipeline; at the end it is as it was, bit for bit."""


class Editor(Protocol):
    """What changes a module's output: an `Edit`, or what a `Watch` attaches."""

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """See `Edit.change`."""


class Hooked(NamedTuple):
    """What a `Watch` attaches: pairs of a hookpoint, or the denoiser's own name, and what is called there."""

    readers: Sequence[tuple[str, Reader]]
    editors: Sequence[tuple[str, Editor]]


@dataclass(frozen=True, eq=False)
class Watch(Part):
    """A part that looks at some modules and acts at others, and remembers within a generation what it saw."""

    @classmethod
    @abstractmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """What acts for all parts of this class together; it lasts as long as they are attached.

        Raises:
            ConfigError: the pipeline has not what they need.
        """


@dataclass(frozen=True, eq=False)
class Removal:
    """What removes one concept from a model, and where it came from."""

    concept: str
    domain: str
    method: str
    settings: Mapping[str, Any]
    """What the method was told, such as {"n": 8, "gamma": -1.0}."""
    parts: tuple[Part, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What this removal depends on: the model's id, the SAEs, the reference set."""

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        places = ", ".join(dict.fromkeys(e.hookpoint for e in self.edits))
        return f"Removal({self.domain} {self.concept!r} by {self.method}({told}){' at ' + places if places else ''})"

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The parts that change a module's output."""
        return tuple(p for p in self.parts if isinstance(p, Edit))

    @contextmanager
    def attached(self, pipe: Any, strength: float = 1.0, any_model: bool = False) -> Iterator[dict[str, str]]:
        """Generate without the concept for as long as the context lasts, best at the number of steps it was tuned at.

        Args:
            strength: from 0 (the unedited model) to 1.
            any_model: do not warn (`OtherModel`) if the removal was made for another model.

        Yields:
            Arguments for the pipeline's call beside its own: `pipe(prompt, **arguments)`.
        """
        with removed(pipe, [self.at(strength)], any_model) as attached_:
            yield attached_.call

    def at(self, strength: float) -> "Removal":
        """This removal at a strength from 0 (changes nothing) to 1 (itself).

        Raises:
            ConfigError: the strength is outside that range, or a part has none between 0 and 1.
        """
        if not 0 <= strength <= 1:
            raise ConfigError(f"strength is {strength:g}; expected 0 (the unedited model) to 1 (the whole removal).")
        if strength == 1:
            return self
        return replace(self, parts=tuple(p.scaled(strength) for p in self.parts) if strength else ())

    @staticmethod
    def merge(removals: Sequence["Removal"]) -> "Removal":
        """One removal that does what all of these do together; see `removed`.

        It depends on which removals these are, not on their order, nor on whether some were merged before the others;
        one that is named twice counts once. That is so bit for bit, but where removals that were scored at different
        steps are merged one after another: what lies between the steps is then interpolated in another order.

        Raises:
            ConfigError: there are none.
        """
        if not removals:
            raise ConfigError("nothing to merge: expected at least one removal.")
        found = sorted({r.content(): r for r in removals}.items())
        if len(found) == 1:
            return removals[0]
        each = [r for _, r in found]
        parts, _ = combine([p for r in each for p in r.parts])
        origins = {json.dumps(o, sort_keys=True, default=str): o for r in each for o in r.origins}
        settings = {name: value for r in each for name, value in r.told.items()}

        def joined(name: str) -> str:
            return " + ".join(sorted({one for r in each for one in getattr(r, name).split(" + ")}))

        return Removal(
            joined("concept"),
            joined("domain"),
            joined("method"),
            dict(sorted(settings.items())),
            tuple(parts),
            {"merged": [origins[key] for key in sorted(origins)]},
        )

    @property
    def origins(self) -> list[dict[str, Any]]:
        """The provenance of each removal that this one was merged from, or its own."""
        return [dict(about) for about in self.provenance.get("merged", [self.provenance])]

    @property
    def told(self) -> dict[str, Any]:
        """The settings by the concept that they are for, as they stand in a merged removal."""
        if "merged" in self.provenance:
            return dict(self.settings)
        return {f"{self.concept}.{name}": value for name, value in self.settings.items()}

    def content(self) -> str:
        """A hash of all that the removal is."""
        about = [self.concept, self.domain, self.method, dict(self.settings), dict(self.provenance)]
        return hashlib.sha256(
            json.dumps([about, [p.content() for p in self.parts]], sort_keys=True, default=str).encode()
        ).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write one safetensors file."""
        tensors = {f"{i}.{name}": value for i, part in enumerate(self.parts) for name, value in part.tensors().items()}
        metadata = {
            "kind": "saeuron-removal",
            "format": FORMAT,
            "concept": self.concept,
            "domain": self.domain,
            "method": self.method,
            "settings": dict(self.settings),
            "parts": [part.record() for part in self.parts],
            "provenance": dict(self.provenance),
        }
        save_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "Removal":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            BadWeights: it is damaged, not a removal, or of another format.
            UnknownName: it is of a method that is not registered here.
        """
        from saeuron import methods

        tensors, about = load_tensors(Path(path))
        if about.get("kind") != "saeuron-removal":
            raise BadWeights(f"{path} is not a removal; expected a file written by Removal.save or `saeuron run`.")
        if about["format"] != FORMAT:
            todo = "update saeuron" if about["format"] > FORMAT else "make it again with `saeuron run`"
            raise BadWeights(f"{path} has removal format {about['format']}, this version reads {FORMAT}; {todo}.")
        for name in about["method"].split(" + "):
            # Importing a method registers the kinds of its parts.
            methods.get(name)
        parts = [Part.restored(record, stripped(str(i), tensors)) for i, record in enumerate(about["parts"])]
        concept, domain, method = (about[name] for name in ("concept", "domain", "method"))
        return cls(concept, domain, method, about["settings"], tuple(parts), about["provenance"])


class Attached(NamedTuple):
    """What `removed` tells while it lasts."""

    call: dict[str, str]
    """Arguments for the pipeline's call beside its own."""
    overlap: dict[str, int]
    """{SAE or hookpoint: number of pairs (step, latent) that several removals edit}."""


def combine(parts: Sequence[Part]) -> tuple[list[Part], dict[str, int]]:
    """Parts of several removals, those that can be made one made one; see `Part.combined`.

    What comes out depends on the parts, not on their order: sums are rounded, and so differ in their last bits.
    """
    if len(parts) == 1:
        return type(parts[0]).combined(parts)
    groups: dict[type[Part], list[Part]] = {}
    for part in sorted(parts, key=Part.content):
        groups.setdefault(type(part), []).append(part)
    merged: list[Part] = []
    overlap: dict[str, int] = {}
    for kind, group in groups.items():
        made, shared = kind.combined(group)
        merged += made
        overlap |= shared
    return sorted(merged, key=Part.content), overlap


def _warn_of_other_models(pipe: Any, removals: Sequence[Removal]) -> None:
    """Warn of removals that were made for another model than this one, as far as both are known."""
    made_for = {
        (about["model_id"], about.get("model", "a model"), removal.concept)
        for removal in removals
        for about in removal.origins
        if about.get("model_id")
    }
    if not made_for or (here := origin(pipe)) is None:
        return
    for model_id, model, concept in sorted(made_for):
        if model_id != here[1]:
            warnings.warn(
                f"the removal of {concept!r} was made for {model} ({model_id}), and this model is {here[0]} "
                f"({here[1]}): what it edits may mean something else here. Measure it, or say any_model to go on.",
                OtherModel,
                stacklevel=6,
            )


@contextmanager
def removed(pipe: Any, removals: Sequence[Removal], any_model: bool = False) -> Iterator[Attached]:
    """Generate without several concepts at once. Edits by different SAEs at one hookpoint add up.

    `any_model`: do not warn (`OtherModel`) of removals that were made for another model.
    """
    if not any_model:
        _warn_of_other_models(pipe, removals)
    parts, overlap = combine([p for r in removals for p in r.parts])
    device = device_of(pipe)
    editors: dict[str, list[Editor]] = {}
    readers: dict[str, list[Reader]] = {}
    call: dict[str, str] = {}
    changes: list[Change] = []
    watches: dict[type[Watch], list[Watch]] = {}
    for part in parts:
        if isinstance(part, Edit):
            editors.setdefault(part.hookpoint, []).append(part.to(device))
        elif isinstance(part, Call):
            call |= part.arguments
        elif isinstance(part, Change):
            changes.append(part.to(device))
        elif isinstance(part, Watch):
            watches.setdefault(type(part), []).append(part.to(device))
    for kind, group in watches.items():
        hooked = kind.hooked(group, pipe)
        for path, reader in hooked.readers:
            readers.setdefault(path, []).append(reader)
        for path, editor in hooked.editors:
            editors.setdefault(path, []).append(editor)
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.changed(pipe))
        chains = {path: [partial(add_changes, group)] for path, group in editors.items()}
        seen = {path: partial(_in_turn, group) for path, group in readers.items()}
        stack.enter_context(attached(pipe, readers=seen, editors=chains))
        yield Attached(call, overlap)


def _in_turn(readers: Sequence[Reader], step: Step, output: Tensor, source: Tensor | None) -> None:
    for reader in readers:
        reader(step, output, source)
