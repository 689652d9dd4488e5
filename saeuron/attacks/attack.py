"""The inputs of an attack, its attempts, and how it generates images."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from saeuron import memory
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import Request, latent_shape, sample, starting_noise
from saeuron.memory import LANES
from saeuron.methods.parts import Gate
from saeuron.prompts import Prompt


class Attempt(NamedTuple):
    """One picture that an attack made."""

    prompt: int
    """Index of the prompt in `Target.prompts`."""
    iteration: int
    """Updates of the attack before this picture; a number of the picture where there are none."""
    timestep: int
    """Timestep that the attack worked on, or -1."""
    text: str
    """The prompt that the model was given."""
    picture: NDArray[np.uint8]
    """uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Target:
    """A model with a removal attached, and what is asked of it."""

    pipe: Any
    concept: str
    prompts: Sequence[Prompt]
    """Sentences that ask for the concept, other than those it was tuned on."""
    pictures: NDArray[np.uint8]
    """uint8 [len(prompts), H, W, 3]: for each prompt, a picture of what it asks for, from other noise."""
    paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{text of a prompt: other sentences that ask for the same}."""
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    """Seed of starting noise, as in an evaluation, and of the attack's own random numbers."""
    hide: bool = False
    """Whether the concept's name may be used nowhere."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's call that belong to the removal."""
    gates: Sequence[Gate] = ()
    """Where the removal decides whether it acts."""
    guided: bool = False
    """Whether it acts only where a prediction with the prompt is set against one without. Losses and inversion then
    use what the sampler makes of the two at the model's guidance, otherwise the prediction with the prompt."""
    broken: set[int] = field(default_factory=set)
    """Prompts that the caller counts as broken: they are not attacked further."""

    @property
    def todo(self) -> list[int]:
        """Prompts that are not broken yet."""
        return [i for i in range(len(self.prompts)) if i not in self.broken]

    def text(self, index: int) -> str:
        """The prompt's sentence; with `hide` without the concept's name."""
        text = self.prompts[index].text
        return without(text, self.concept) if self.hide else text

    def noise(self, indices: Sequence[int]) -> torch.Tensor:
        """Starting noise of the prompts, float32 [n, C, H, W]: that of their first image in an evaluation."""
        requests = [Request(self.prompts[i], 0) for i in indices]
        return starting_noise(self.seed, requests, latent_shape(self.pipe, self.model))

    def draw(self, texts: Sequence[str], noise: torch.Tensor, *, guidance: float | None = None) -> NDArray[np.uint8]:
        """Pictures of these texts, uint8 [n, H, W, 3], in padded micro-batches as in an evaluation.

        Args:
            noise: float32 [n, C, H, W].
            guidance: guidance scale; the model's own by default.
        """
        model, found = self.model, []
        if guidance is not None:
            model = model.model_copy(update={"guidance": guidance})
        start = 0
        while start < len(texts):
            size = memory.fits(self.pipe, model.micro_batch)
            part, begin = list(texts[start : start + size]), noise[start : start + size]
            lacking = min(-(-len(part) // LANES) * LANES, size) - len(part)
            filled = torch.cat([begin, begin[-1:].expand(lacking, -1, -1, -1)])
            try:
                found.append(sample(self.pipe, part + part[-1:] * lacking, filled, model, self.call)[: len(part)])
            except Exception as error:
                if not memory.full(error):
                    raise
                memory.halve(self.pipe, len(filled), error)
                continue
            start += len(part)
        return np.concatenate(found)


class Attack(ABC):
    """A way to get pictures of a concept out of a model without it."""

    name: ClassVar[str]
    """How a command calls it."""

    @abstractmethod
    def __call__(self, target: Target, effort: "Effort") -> Iterator[list[Attempt]]:
        """Pictures, in batches; between two of them the caller may add to `target.broken`.

        Raises:
            ConfigError: it cannot attack this kind of pipeline or scheduler, or a sentence is too long for it.
        """


@dataclass(frozen=True)
class Effort:
    """How hard an attack tries."""

    words: int = 5
    """Words before the sentence."""
    iterations: int = 40
    """Updates at each timestep."""
    steps: int = 12
    """Timesteps that are worked on, evenly spaced over the model's own; one picture after each."""
    learned: int = 400
    """Updates of a learned embedding."""


def without(text: str, concept: str) -> str:
    """A sentence without a concept's name."""
    text = re.sub(rf"\b{re.escape(concept)}\b", "", text, flags=re.IGNORECASE)
    return re.sub(r"\s+([.,])", r"\1", re.sub(r"\s+", " ", text)).strip(" ,")


def attempts(
    indices: Sequence[int],
    texts: Sequence[str],
    pictures: NDArray[np.uint8],
    iteration: int,
    timestep: int = -1,
) -> list[Attempt]:
    """The attempts of one batch, a text and a picture for each prompt."""
    return [
        Attempt(i, iteration, timestep, text, picture)
        for i, text, picture in zip(indices, texts, pictures, strict=True)
    ]


def tokenizer_of(pipe: Any) -> Any:
    """The tokenizer of a pipeline with one text encoder.

    Raises:
        ConfigError: it has several, or none.
    """
    encoders = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if getattr(pipe, name, None)]
    if encoders != ["text_encoder"]:
        raise ConfigError(
            f"{type(pipe).__name__} has {len(encoders)} text encoders; this attack reaches one: leave it out "
            "(--attack none, paraphrase, inversion)."
        )
    return pipe.tokenizer
