"""UCE where an SAE sees the concept: keys and values of the edit there, the model's own elsewhere.

A probe (probe.py) of a few latents decides for each image, at its first denoising step, whether it shows the concept
(decision.py). If so, the keys and values of all its steps read W' x (uce.py) in place of W x. If not, the picture is
the unedited one, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from saeuron.hooks import INPUT, Reader, Step
from saeuron.methods.base import Evidence, Settings
from saeuron.methods.controls import random_latents
from saeuron.methods.detection.decision import Decision, First, rows_of
from saeuron.methods.detection.probe import Probe, first, probes, strongest
from saeuron.methods.detection.sensor import whole
from saeuron.methods.parts import Editor, Hooked, Watch
from saeuron.methods.text.states import FARTHEST
from saeuron.methods.weights.linear_map import Moments
from saeuron.methods.weights.uce import UCE
from saeuron.sae.autoencoder import check_width


@dataclass(frozen=True, eq=False)
class GatedMap(Watch):
    """Keys and values read x + up (down x) in images for which a probe opens; see the head of this file."""

    kind: ClassVar[str] = "gated_map"

    probes: tuple[Probe, ...]
    layers: tuple[str, ...]
    """Dotted paths of the layers that make keys and values."""
    up: Tensor
    """float32 [D, r]."""
    down: Tensor
    """float32 [r, D]."""

    def __post_init__(self) -> None:
        # A file gives a list.
        object.__setattr__(self, "layers", tuple(self.layers))

    def scaled(self, strength: float) -> "GatedMap":
        """The map's change times `strength`; which images it acts on stays the same."""
        return replace(self, up=strength * self.up)

    @classmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """Each part by itself: what several change adds up."""
        decisions = [Decision(part.probes) for part in parts]
        first = First(decisions, pipe)
        readers: list[tuple[str, Reader]] = first.readers()
        editors: list[tuple[str, Editor]] = [(first.root, first)]
        for part, decision in zip(parts, decisions, strict=True):
            readers += decision.readers()
            # A layer that is not there is refused, by its name, where hooks are attached.
            editors += [(path + INPUT, _Mapped(part, decision)) for path in part.layers]
        return Hooked(readers, editors, decisions)


class _Mapped:
    """What a layer reads is mapped, for the images that are edited."""

    def __init__(self, part: GatedMap, decision: Decision) -> None:
        self.part, self.decision = part, decision

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """float32 [B, L, D] to be added to text states [B, L, D]; None where no image is edited."""
        if (opened := self.decision.opened) is None:
            return None
        check_width(self.part.down.shape[1], output.shape[-1], "the removal at the text states")
        mapped = (output.float() @ self.part.down.T) @ self.part.up.T
        return torch.where(rows_of(opened, step, output), mapped, 0.0)


class GatedUCE(UCE):
    """`n`: latents of the probe; the rest is UCE's."""

    name = "gated_uce"
    needs = frozenset({"latents", "activations", "prompts"})
    grid: ClassVar[dict[str, Sequence[Any]]] = {"n": (2,), "erase": (1.0,), "toward": (FARTHEST,)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        return whole(name, values) if name == "n" else super().ordered(name, values)

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """Which n latents the probe reads, bool [N]: those with the strongest scores, for the concept or against it."""
        return strongest(evidence, hookpoint, n)

    def learn(self, evidence: Evidence) -> Any:
        """(UCE's moments, {n: probes}), filled as settings ask for them."""
        found: tuple[dict[str, Moments], dict[int, tuple[Probe, ...]]] = ({}, {})
        return found

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One map with its probes."""
        moments, fitted = learned
        n = settings["n"]
        if n not in fitted:
            fitted[n] = probes(evidence, n, self.selected)
        [plain] = super().parts(evidence, moments, settings)
        return (GatedMap(fitted[n], plain.layers, plain.up, plain.down),)


class GatedUCERandom(GatedUCE):
    """A control: the probe reads trained latents, drawn at random among those that fire on the concept."""

    name = "gated_uce_random"
    like = "gated_uce"

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """n latents in an order that the concept and the hookpoint seed, bool [N]."""
        return random_latents(evidence, hookpoint, n)[first(evidence.profiles[hookpoint])]
