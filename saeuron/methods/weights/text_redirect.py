"""Train the text encoder's first layer to read a concept's words as others.

    loss = mean |E'(p) - E*(p)|^2 + keep mean |E'(x) - E(x)|^2

p are training prompts that name the concept. From the concept's last token on, E*(p) is the mean of the unchanged
encoder's states for the same sentences with other words instead (`toward`); before that token it is E(p). x are
training prompts for other concepts, and the empty one. E are the states that the denoiser reads. All linear layers of
the first layer are trained, each by a low-rank term (training.py). No image is generated.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from saeuron.attacks.soft import unguided
from saeuron.errors import ConfigError
from saeuron.hooks import hookpoints
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.text.states import FARTHEST, OTHERS, aligned, counterparts, embeddings, layer
from saeuron.methods.weights.part import WeightDelta
from saeuron.methods.weights.training import LowRank
from saeuron.noise import generator
from saeuron.pipelines import family_of

RANK, RATE, STEPS = 8, 5e-3, 200
BATCH = 32
"""Prompts of each kind in a step."""


class Targets(NamedTuple):
    """Target states of P prompts of L tokens."""

    texts: list[str]
    states: Tensor
    """float32 [P, L, D]."""
    counts: Tensor
    """1 for a token that counts, else 0, float32 [P, L]."""


class TextRedirect(Method):
    """`toward`: the word as which the concept is read; `others`: the mean of others; `farthest`: the concept least like
    it; `keep`: weight of the prompts that stay.
    """

    name = "text_redirect"
    needs = frozenset({"prompts"})
    grid: ClassVar = {"keep": (1.0,), "toward": (OTHERS,)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Large `keep` before small."""
        if name == "toward":
            if bad := [v for v in values if not isinstance(v, str)]:
                raise ConfigError(f"toward holds {bad[0]!r}; expected a word, {OTHERS!r} or {FARTHEST!r}.")
            return list(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0]:
            raise ConfigError(f"{name} holds {bad[0]!r}; expected numbers of at least 0.")
        return sorted(map(float, values), reverse=True)

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[WeightDelta, ...]:
        """A change for each linear layer of the encoder's first layer."""
        del learned
        pipe = evidence.pipe
        redirected, kept = targets(evidence, settings["toward"])
        first = layer(pipe, 0)
        paths = [p for p, m in hookpoints(pipe).items() if p.startswith(f"{first}.") and isinstance(m, nn.Linear)]
        terms = LowRank(pipe, paths, RANK, RATE, evidence.seed)
        draws = generator(evidence.seed, "text_redirect", evidence.concept)
        with terms.attached(), torch.enable_grad(), unguided(pipe):
            for _ in range(STEPS):
                loss = misfit(pipe, redirected, draws) + settings["keep"] * misfit(pipe, kept, draws)
                terms.step(loss)
        return terms.parts()


def targets(evidence: Evidence, toward: str) -> tuple[Targets, Targets]:
    """(targets of prompts that name the concept, targets of prompts that stay)."""
    pipe = evidence.pipe
    found = list(aligned(pipe, counterparts(evidence, toward)))
    texts = [each.text for each in found]
    states = embeddings(pipe, texts)
    counts = torch.zeros(states.shape[:2])
    for i, each in enumerate(found):
        end = each.place + len(each.other)
        states[i, each.place : end], counts[i, :end] = each.other, 1.0
    # The empty prompt, which guidance starts from, is in every step.
    stay = ["", *dict.fromkeys(p.text for p in evidence.retained)]
    kept = embeddings(pipe, stay)
    return Targets(texts, states, counts), Targets(stay, kept, torch.ones(kept.shape[:2]))


def misfit(pipe: Any, of: Targets, draws: torch.Generator) -> Tensor:
    """Mean squared distance of the states of BATCH prompts from their targets, a mean over tokens that count."""
    chosen = torch.randperm(len(of.texts), generator=draws)[:BATCH]
    if of.texts[0] == "":
        chosen[0] = 0
    states = family_of(pipe).encode_prompt(pipe, [of.texts[i] for i in chosen.tolist()])["encoder_hidden_states"]
    wanted, counts = (x[chosen].to(states.device) for x in (of.states, of.counts))
    return ((states.float() - wanted).square().mean(-1) * counts).sum() / counts.sum()
