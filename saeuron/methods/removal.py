"""A removal: it takes one concept out of a model while images are generated, and is stored in a file.

A removal is made of parts (`saeuron/methods/parts.py`). Methods differ in how they make them; attaching, combining,
scaling and saving are the same for all.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from saeuron.checkpoint import load_tensors, save_tensors, stripped
from saeuron.errors import BadWeights, ConfigError, OtherModel
from saeuron.hooks import Reader, Step, attached, device_of
from saeuron.methods.parts import Call, Change, Edit, Editor, Gate, Opening, Part, Watch, add_changes
from saeuron.pipelines.loading import origin

FORMAT = 4
"""Version of the file format. Files of other versions are refused."""


@dataclass(frozen=True, eq=False)
class Removal:
    """Removes one concept from a model; holds its parts and their origin."""

    concept: str
    domain: str
    method: str
    settings: Mapping[str, Any]
    """Settings of the method, such as {"n": 8, "gamma": -1.0}."""
    parts: tuple[Part, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Inputs that this removal depends on: the model's id, the SAEs, the reference set."""

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
        """Attach the removal to a pipeline until the context ends; it is best at the number of steps it was tuned at.

        Args:
            strength: from 0 (the unedited model) to 1.
            any_model: do not warn (`OtherModel`) if the removal was made for another model.

        Yields:
            Further arguments for the pipeline's call: `pipe(prompt, **arguments)`.

        Raises:
            ConfigError: the strength is outside that range, or a part has none between 0 and 1.
        """
        with removed(pipe, [self.at(strength)], any_model) as attached_:
            yield attached_.call

    def at(self, strength: float) -> "Removal":
        """This removal at a strength from 0 (changes nothing) to 1 (unchanged).

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
        """One removal with the effect of all of these together; see `removed`.

        It depends only on which removals these are, not on their order, nor on whether some were merged before the
        others; a duplicate counts once. This holds bit for bit, with one exception: if removals that were scored at
        different steps are merged one after another, values between the steps are interpolated in another order.

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
        """{concept.setting: value}, as in a merged removal."""
        if "merged" in self.provenance:
            return dict(self.settings)
        return {f"{self.concept}.{name}": value for name, value in self.settings.items()}

    def content(self) -> str:
        """SHA-256, hexadecimal, of all fields of the removal."""
        about = [self.concept, self.domain, self.method, dict(self.settings), dict(self.provenance)]
        return hashlib.sha256(
            json.dumps([about, [p.content() for p in self.parts]], sort_keys=True, default=str).encode()
        ).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the removal as one safetensors file."""
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
            UnknownName: its method is not registered here.
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
    """The value that `removed` yields."""

    call: dict[str, str]
    """Further arguments for the pipeline's call."""
    overlap: dict[str, int]
    """{SAE or hookpoint: number of pairs (step, latent) that several removals edit}."""
    gates: tuple[Gate, ...] = ()
    """Where it is decided whether a removal acts."""
    needs_guidance: bool = False
    """Whether some part acts only where a prediction with the prompt is set against one without."""


def combine(parts: Sequence[Part]) -> tuple[list[Part], dict[str, int]]:
    """Combine parts of several removals, as far as possible; see `Part.combined`.

    Parts are sorted by content first, because rounded sums depend on the order: the result depends only on the parts.

    Returns:
        (parts, {SAE or hookpoint: number of pairs (step, latent) that several removals edit}).
    """
    if len(parts) == 1:
        return type(parts[0]).combined(parts)
    groups: dict[type[Part], list[Part]] = {}
    for part in sorted(parts, key=lambda part: part.content()):
        groups.setdefault(type(part), []).append(part)
    merged: list[Part] = []
    overlap: dict[str, int] = {}
    for kind, group in groups.items():
        made, shared = kind.combined(group)
        merged += made
        overlap |= shared
    return sorted(merged, key=lambda part: part.content()), overlap


def _warn_of_other_models(pipe: Any, removals: Sequence[Removal]) -> None:
    """Warn of removals that were made for another model than this one, if both models are known."""
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
    """Attach several removals to a pipeline until the context ends. Edits by different SAEs at one hookpoint add up.

    Args:
        any_model: do not warn (`OtherModel`) of removals that were made for another model.
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
    gates: list[Gate] = []
    for part in parts:
        if isinstance(part, Edit):
            edit = part.to(device)
            editors.setdefault(part.hookpoint, []).append(edit)
            if edit.margin is not None:
                gates.append(gate := Opening(edit.margin))
                readers.setdefault(part.hookpoint, []).append(gate.look)
        elif isinstance(part, Call):
            call |= part.arguments
        elif isinstance(part, Change):
            changes.append(part.to(device))
        elif isinstance(part, Watch):
            watches.setdefault(type(part), []).append(part.to(device))
    for kind, group in watches.items():
        hooked = kind.hooked(group, pipe)
        gates += hooked.gates
        for path, reader in hooked.readers:
            readers.setdefault(path, []).append(reader)
        for path, editor in hooked.editors:
            editors.setdefault(path, []).append(editor)
    with ExitStack() as stack:
        for change in sorted(changes, key=lambda change: change.order):
            stack.enter_context(change.changed(pipe))
        chains = {path: [partial(add_changes, group)] for path, group in editors.items()}
        seen = {path: partial(_in_turn, group) for path, group in readers.items()}
        stack.enter_context(attached(pipe, readers=seen, editors=chains, compiled=not changes))
        yield Attached(call, overlap, tuple(gates), any(part.needs_guidance for part in parts))


def _in_turn(readers: Sequence[Reader], step: Step, output: Tensor, source: Tensor | None) -> None:
    for reader in readers:
        reader(step, output, source)
