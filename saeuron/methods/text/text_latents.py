"""Turn a concept's latents down in a text encoder's SAE, in every prompt: ItD (2503.09446) without its gate.

    x' = x + sum_{i in F} (beta - 1) f_i W_dec[i]     at every token but the first, of the conditional half

The error of the SAE is kept. A prompt in which no latent of F fires gives the same image, bit for bit.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.text import sae


class TextLatents(Method):
    """`beta`: what multiplies the latents; `layer`: of the text encoder, negative numbers from the last."""

    name = "text_latents"
    needs = frozenset({"prompts"})
    grid: ClassVar = {"beta": (0.0, -2.0, -8.0), "layer": (-2,)}

    @property
    def reads_sae(self) -> bool:
        """It trains one on prompts."""
        return True

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Near 1 before far below."""
        numbers = (int,) if name == "layer" else (int, float)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, numbers)]:
            raise ConfigError(f"{name} holds {bad[0]!r}; expected {'whole ' if name == 'layer' else ''}numbers.")
        if name == "layer":
            return list(values)
        if bad := [v for v in values if v >= 1]:
            raise ConfigError(f"beta holds {bad[0]!r}; expected numbers below 1, which changes nothing.")
        return sorted(map(float, values), reverse=True)

    def learn(self, evidence: Evidence) -> dict[int, sae.TextLatents]:
        """{layer: the concept's latents}, filled as settings ask for them."""
        del evidence
        return {}

    def parts(
        self, evidence: Evidence, learned: dict[int, sae.TextLatents], settings: Settings
    ) -> tuple[GatedEdit, ...]:
        """One edit of the text encoder."""
        number = settings["layer"]
        if number not in learned:
            learned[number] = sae.text_latents(evidence, number, sae.TRAINING.learning(self.dictionary))
        return (self.edit(learned[number], settings["beta"]),)

    def edit(self, found: sae.TextLatents, beta: float) -> GatedEdit:
        """The edit without a gate."""
        return gated(found.edit(beta), "scaled", first=sae.FIRST)
