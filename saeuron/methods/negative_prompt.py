"""Name the concept in the negative prompt, so that guidance pushes away from it; nothing is learned."""

from collections.abc import Sequence
from typing import Any, ClassVar

from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.parts import Call
from saeuron.pipelines.loading import family_at


class NegativePrompt(Method):
    """`text`: the negative prompt, with placeholders `{concept}` and `{domain}`."""

    name = "negative_prompt"
    grid: ClassVar = {"text": ("{concept}", "An image of {concept}.")}

    def check(self, config: RunConfig) -> None:
        """Raise ConfigError for a run without classifier-free guidance, where a negative prompt has no effect."""
        if config.model.guidance <= 1:
            raise ConfigError(
                f"method negative_prompt: model.guidance is {config.model.guidance:g}, where a negative prompt has no "
                "effect; set it above 1, or take another method."
            )
        if not family_at(config.model.spec).doubles:
            raise ConfigError(
                f"method negative_prompt: guidance is an input of {config.model.spec}, where a negative prompt has no "
                "effect; take another method."
            )

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """The values in the given order; each must be a text without other placeholders than these two."""
        for value in values:
            try:
                filled = str(value).format(concept="c", domain="d")
            except (KeyError, IndexError, ValueError, AttributeError):
                filled = ""
            if not filled.strip():
                raise ConfigError(f"text holds {value!r}; expected a sentence with {{concept}} or {{domain}} in it.")
        return list(values)

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Call, ...]:
        """The argument of the pipeline's call."""
        del learned
        text = settings["text"].format(concept=evidence.concept, domain=evidence.domain)
        return (Call({"negative_prompt": text}),)
