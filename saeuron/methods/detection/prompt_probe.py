"""A probe of the prompt: do the text states that the denoiser reads ask for the concept?

g(p) = max over tokens of cos(W (x - o), W u) - tau, of the conditional half, at the input of a layer that makes keys;
open where g >= 0. See `saeuron.methods.text.semantic_gate`, whose gate it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from saeuron.hooks import INPUT
from saeuron.methods.base import Evidence
from saeuron.methods.parts import Part, relative
from saeuron.methods.text.semantic_gate import SemanticGate, semantic_gate
from saeuron.methods.text.states import embeddings


@dataclass(frozen=True, eq=False)
class PromptProbe(Part):
    """The gate of a prompt, read while an image is generated; it edits nothing."""

    kind: ClassVar[str] = "prompt_probe"

    hookpoint: str
    """Where the denoiser reads text states."""
    gates: tuple[SemanticGate, ...]
    """One gate of one concept."""

    def scaled(self, strength: float) -> "PromptProbe":
        """Itself: detection does not depend on the strength."""
        del strength
        return self

    def height(self, output: Tensor) -> Tensor:
        """g, float32 [images], of text states [images, L, D]."""
        [gate] = self.gates
        return gate.cosines(output.float())[:, 0] - gate.tau[0]

    def margin(self, output: Tensor) -> Tensor:
        """g / (|cos| + |tau|), in [-1, 1], float32 [images]; open at 0 and above."""
        [gate] = self.gates
        return relative(gate.cosines(output.float()), gate.tau).amax(-1)


def prompt_probe(evidence: Evidence, layers: Sequence[str]) -> PromptProbe:
    """A probe learned from training prompts; `layers` make keys and values of text."""
    states = [embeddings(evidence.pipe, texts) for texts in (
        [p.text for p in evidence.asked], ["", *(p.text for p in evidence.retained)]
    )]  # fmt: skip
    hookpoint = layers[0] + INPUT
    return PromptProbe(hookpoint, (semantic_gate(hookpoint, *states),))
