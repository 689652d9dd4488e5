"""UCE only in images whose prompt asks for the concept: by the prompt alone, or by it and an SAE.

prompt_uce   edited where the prompt says so (prompt_probe.py); it needs no SAE
either_uce   edited where the prompt or a probe of an SAE says so. The prompt finds the name, the SAE what is described
             without it, so the SAE's probe can be stricter: it is shut for every training image of others

An image that is not edited is the unedited one, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from saeuron.methods.base import Evidence, Settings
from saeuron.methods.detection.gated_uce import GatedMap, GatedUCE, GatedUCERandom
from saeuron.methods.detection.prompt_probe import prompt_probe
from saeuron.methods.text.states import FARTHEST
from saeuron.methods.weights.uce import UCE


class PromptUCE(UCE):
    """The settings are those of UCE."""

    name = "prompt_uce"
    grid: ClassVar[dict[str, Sequence[Any]]] = {"erase": (1.0,), "toward": (FARTHEST,)}

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One map with its probe."""
        [plain] = super().parts(evidence, learned, settings)
        return (GatedMap((prompt_probe(evidence, plain.layers),), plain.layers, plain.up, plain.down),)


class EitherUCE(GatedUCE):
    """The settings are those of `gated_uce`."""

    name = "either_uce"
    strict = True

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Any, ...]:
        """One map with its probes."""
        [gated] = super().parts(evidence, learned, settings)
        return (replace(gated, probes=(*gated.probes, prompt_probe(evidence, gated.layers))),)


class EitherUCERandom(EitherUCE, GatedUCERandom):
    """A control: its probe of the SAE is that of `gated_uce_random`, made stricter."""

    name = "either_uce_random"
    like = "either_uce"
