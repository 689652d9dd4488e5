"""UCE where an SAE sees the concept: keys and values of the edit there, the model's own elsewhere.

    gate image:     K, V of an image read W' x (uce.py) in place of W x from the moment that its gate is open
    gate position:  out = m out' + (1 - m) out of each cross-attention; out' reads W' x, m = 1 at positions that fired

The gate is open where G(b,t) >= tau(t) (thresholds.py); a position fires where a latent of F(c,t) is above m(i,t).
Both stay so to the end of the generation: what has fired is edited then, and its latents are silent. What the SAE sees
before is the model's own. The first steps, to `ahead`, are looked at before the generation begins (ahead.py). Later a
cross-attention is told what the hookpoint saw last: in this step, if it comes after it, else in the one before. A
picture in which nothing fires is the unedited one, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.hooks import INPUT, Reader, Step, hookpoints
from saeuron.methods.base import Evidence, Settings
from saeuron.methods.controls import random_latents
from saeuron.methods.detection.ahead import LookAhead
from saeuron.methods.detection.sensor import (
    Memory,
    Where,
    both,
    check_where,
    highest,
    positions_of,
    rows_of,
    sensors,
    whole,
)
from saeuron.methods.detection.thresholds import with_thresholds
from saeuron.methods.gates import GatedEdit
from saeuron.methods.parts import Editor, Hooked, Watch
from saeuron.methods.text.states import OTHERS
from saeuron.methods.weights.linear_map import Moments
from saeuron.methods.weights.uce import UCE
from saeuron.pipelines import family_of
from saeuron.sae.autoencoder import check_width


@dataclass(frozen=True, eq=False)
class GatedMap(Watch):
    """Keys and values read x + up (down x) where sensors fire; see the head of this file."""

    kind: ClassVar[str] = "gated_map"

    sensors: tuple[GatedEdit, ...]
    gate: Where
    layers: tuple[str, ...]
    """Dotted paths of the layers that make keys and values."""
    up: Tensor
    """float32 [D, r]."""
    down: Tensor
    """float32 [r, D]."""
    ahead: int = -1
    """The last of the steps that are looked at before the generation begins; -1: none."""

    def __post_init__(self) -> None:
        # A file gives a list.
        object.__setattr__(self, "layers", tuple(self.layers))

    def scaled(self, strength: float) -> "GatedMap":
        """The map's change times `strength`; where it acts stays the same."""
        return replace(self, up=strength * self.up)

    @classmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """Each part by itself: what several change adds up."""
        readers: list[tuple[str, Reader]] = []
        editors: list[tuple[str, Editor]] = []
        known = hookpoints(pipe)
        memories = [Memory(part.sensors, part.gate, keeps=True, ahead=part.ahead) for part in parts]
        if any(part.ahead >= 0 for part in parts):
            ahead = LookAhead([(part.ahead, memory) for part, memory in zip(parts, memories, strict=True)], pipe)
            editors.append((family_of(pipe).root + INPUT, ahead))
        for part, memory in zip(parts, memories, strict=True):
            readers += memory.readers(pipe)
            switch = _Switch(on=part.gate == "image")
            # A layer that is not there is refused, by its name, where hooks are attached.
            editors += [(path + INPUT, _Mapped(part, memory, switch)) for path in part.layers]
            if part.gate == "position":
                attentions = dict.fromkeys(path.rpartition(".")[0] for path in part.layers if path in known)
                editors += [(path, _Blended(memory, switch)) for path in attentions]
        return Hooked(readers, editors, [memory for memory in memories if memory.ahead >= 0])


@dataclass
class _Switch:
    """Whether keys and values are mapped now."""

    on: bool


class _Mapped:
    """What a layer reads is mapped, for the images that fired."""

    def __init__(self, part: GatedMap, memory: Memory, switch: _Switch) -> None:
        self.part, self.memory, self.switch = part, memory, switch

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """float32 [B, L, D] to be added to text states [B, L, D]; None where no image fired."""
        fired = self.memory.fired(1, 1) if self.switch.on else None
        if fired is None:
            return None
        check_width(self.part.down.shape[1], output.shape[-1], "the removal at the text states")
        mapped = (output.float() @ self.part.down.T) @ self.part.up.T
        return torch.where(both(fired, step)[:, :, :1], mapped, 0.0)


class _Blended:
    """An attention's output with mapped keys and values, at the positions that fired."""

    def __init__(self, memory: Memory, switch: _Switch) -> None:
        self.memory, self.switch = memory, switch

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """float32 in the output's shape: out' - out where it fired; None where nothing did."""
        if self.switch.on or step.call is None:
            return None
        size = output.shape[2:] if output.ndim == 4 else self.memory.grid(positions_of(output))
        fired = self.memory.fired(*size)
        if fired is None:
            return None
        module, args, kwargs = step.call
        self.switch.on = True
        try:
            # Not a call of the module: its own hooks have run.
            mapped = module.forward(*args, **kwargs)
        finally:
            self.switch.on = False
        difference = (mapped[0] if isinstance(mapped, tuple) else mapped).float() - output.float()
        return torch.where(rows_of(both(fired, step), output), difference, 0.0)


class GatedUCE(UCE):
    """`n`: latents that tell the concept at each step; `gate`: `image` or `position`; `ahead`: the last scored step
    that is looked at first; the rest is UCE's.
    """

    name = "gated_uce"
    needs = frozenset({"latents", "others", "prompts"})
    grid: ClassVar[dict[str, Sequence[Any]]] = {
        "n": (1, 2),
        "gate": ("image",),
        "ahead": (1,),
        "erase": (0.1,),
        "toward": (OTHERS,),
    }

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        if name == "gate":
            return check_where(values)
        if name == "n":
            return whole(name, values)
        if name == "ahead":
            if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < -1]:
                raise ConfigError(f"ahead holds {bad[0]!r}; expected steps from 0, or -1 for none.")
            return sorted(values)
        return super().ordered(name, values)

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """Which n latents tell the concept at each step, bool [T, N]: those with the highest scores."""
        return highest(evidence, hookpoint, n)

    def learn(self, evidence: Evidence) -> Any:
        """(UCE's moments, {(n, gate): sensors}), filled as settings ask for them."""
        found: tuple[dict[str, Moments], dict[tuple[int, str], tuple[GatedEdit, ...]]] = ({}, {})
        return found

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One map with its sensors."""
        moments, seen = learned
        n, gate = settings["n"], settings["gate"]
        if (n, gate) not in seen:
            found = sensors(evidence, n, self.selected)
            seen[n, gate] = with_thresholds(found, evidence, evidence.others) if gate == "image" else found
        [plain] = super().parts(evidence, moments, settings)
        return (GatedMap(seen[n, gate], gate, plain.layers, plain.up, plain.down, settings["ahead"]),)


class GatedUCEUntrained(GatedUCE):
    """A control: the sensors are latents of an SAE that was never trained."""

    name = "gated_uce_untrained"
    dictionary = "untrained"
    like = "gated_uce"


class GatedUCERandom(GatedUCE):
    """A control: the sensors are trained latents, drawn at random among those that fire on the concept."""

    name = "gated_uce_random"
    like = "gated_uce"

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """n latents in an order that the concept and the hookpoint seed, bool [T, N]."""
        return random_latents(evidence, hookpoint, n)
