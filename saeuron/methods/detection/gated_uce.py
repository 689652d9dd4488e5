"""UCE, only in images in which an SAE sees the concept.

A probe (probe.py) of a few latents decides for each image, at its first denoising step, whether it shows the concept
(decision.py). If so, its keys and values are W' x (uce.py) instead of W x, at all steps. If not, the image is the
unedited one, bit for bit.
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
from saeuron.methods.detection.prompt_probe import PromptProbe
from saeuron.methods.detection.sensor import whole
from saeuron.methods.parts import Editor, Hooked, Part, Watch
from saeuron.methods.text.states import FARTHEST
from saeuron.methods.weights.linear_map import Moments
from saeuron.methods.weights.uce import UCE
from saeuron.sae.autoencoder import check_width


@dataclass(frozen=True, eq=False)
class GatedMap(Watch):
    """Keys and values read x + up (down x) in images for which a probe opens."""

    kind: ClassVar[str] = "gated_map"

    probes: tuple[Probe | PromptProbe, ...]
    """It opens where one of them does."""
    layers: tuple[str, ...]
    """Dotted paths of the layers that make keys and values."""
    up: Tensor
    """float32 [D, r]."""
    down: Tensor
    """float32 [r, D]."""

    def __post_init__(self) -> None:
        # A file gives a list.
        object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def watched(self) -> tuple[Part, ...]:
        """Its probes."""
        return self.probes

    def scaled(self, strength: float) -> "GatedMap":
        """The map's change times `strength`; the images on which it acts stay the same."""
        return replace(self, up=strength * self.up)

    @classmethod
    def hooked(cls, parts: Sequence[Self], pipe: Any) -> Hooked:
        """Each part on its own; changes of several add up."""
        decisions = [Decision(part.probes) for part in parts]
        first = First(decisions, pipe)
        readers: list[tuple[str, Reader]] = first.readers()
        editors: list[tuple[str, Editor]] = [(first.root, first)]
        for part, decision in zip(parts, decisions, strict=True):
            readers += decision.readers()
            # A missing layer is refused by name where hooks are attached.
            editors += [(path + INPUT, _Mapped(part, decision)) for path in part.layers]
        return Hooked(readers, editors, decisions)


class _Mapped:
    """Maps the input of a layer, in images that are edited."""

    def __init__(self, part: GatedMap, decision: Decision) -> None:
        self.part, self.decision = part, decision

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """The change to add to text states [B, L, D], float32 [B, L, D]; None if no image is edited."""
        if (opened := self.decision.opened) is None:
            return None
        check_width(self.part.down.shape[1], output.shape[-1], "the removal at the text states")
        mapped = (output.float() @ self.part.down.T) @ self.part.up.T
        return torch.where(rows_of(opened, step, output), mapped, 0.0)


class GatedUCE(UCE):
    """`n`: latents of the probe; other settings are those of UCE."""

    name = "gated_uce"
    needs = frozenset({"latents", "activations", "prompts"})
    grid: ClassVar[dict[str, Sequence[Any]]] = {"n": (2,), "erase": (1.0,), "toward": (FARTHEST,)}

    strict: ClassVar[bool] = False
    """Whether a probe is shut for every training image of others."""

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        return whole(name, values) if name == "n" else super().ordered(name, values)

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """The n latents that the probe reads, bool [N]: those with the greatest |score|."""
        return strongest(evidence, hookpoint, n)

    def learn(self, evidence: Evidence) -> Any:
        """({toward: UCE's moments}, {n: probes}), filled by `parts` when needed."""
        found: tuple[dict[str, Moments], dict[int, tuple[Probe, ...]]] = ({}, {})
        return found

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One map with its probes."""
        moments, fitted = learned
        n = settings["n"]
        if n not in fitted:
            fitted[n] = probes(evidence, n, self.selected, strict=self.strict)
        [plain] = super().parts(evidence, moments, settings)
        return (GatedMap(fitted[n], plain.layers, plain.up, plain.down),)


class GatedUCERandom(GatedUCE):
    """A control: the probe reads trained latents, drawn at random from those that fire on the concept."""

    name = "gated_uce_random"
    like = "gated_uce"

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """n latents in an order that the concept and the hookpoint seed, bool [N]."""
        return random_latents(evidence, hookpoint, n)[first(evidence.profiles[hookpoint])]
