"""ESD-x (2303.07345): fine-tune cross-attention so that a concept's prompt is denoised away from the concept.

    e'(z, c) -> e(z, u) - eta (e(z, c) - e(z, u))        mean squared error, over steps of pictures in the making

e is the model as it was, e' the edited one, c a prompt that asks for the concept, u the same sentence with another
concept's name (`against: others`), or the empty prompt, as published. z are the states that e' itself passes
through from noise to image, with c and guidance, by deterministic sampling (DDIM, 2010.02502). Keys and values are
trained, each by a term of low rank (training.py); published are whole matrices and a lower rate. With `keep`, which is
not in the paper, training prompts for other concepts are held at e(z, x) at the same z.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.attacks.soft import unguided
from saeuron.errors import ConfigError
from saeuron.generation import latent_shape
from saeuron.hooks import device_of
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.text.states import OTHERS, counterparts
from saeuron.methods.weights.linear_map import cross_attention
from saeuron.methods.weights.part import WeightDelta
from saeuron.methods.weights.training import LowRank
from saeuron.noise import generator, initial_noise
from saeuron.pipelines import family_of

RANK, RATE = 4, 5e-3
"""A first guess, which removes neon from canvas (docs/log.md, 2026-11-29)."""
PICTURES, BATCH = 20, 8
"""Number of generations, each of BATCH prompts, from noise to image with an update at each step."""
EMPTY = "empty"
"""Value of `against`: the empty prompt."""


class ESD(Method):
    """`eta`: how far beyond u; `against`: `others` or `empty`; `keep`: weight of other prompts, 0 as published."""

    name = "esd"
    needs = frozenset({"prompts"})
    grid: ClassVar = {"eta": (1.0,), "against": (OTHERS,), "keep": (1.0,)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Weak before strong."""
        if name == "against":
            if bad := [v for v in values if v not in (OTHERS, EMPTY)]:
                raise ConfigError(f"against holds {bad[0]!r}; expected {OTHERS!r} or {EMPTY!r}.")
            return list(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0]:
            raise ConfigError(f"{name} holds {bad[0]!r}; expected numbers of at least 0.")
        return sorted(map(float, values), reverse=name == "keep")

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[WeightDelta, ...]:
        """A change for each layer of keys and values."""
        del learned
        pipe = evidence.pipe
        alphas = getattr(pipe.scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise ConfigError(
                f"the scheduler {type(pipe.scheduler).__name__} has no alphas_cumprod; esd knows variance-preserving "
                "ones: take uce, or another method."
            )
        terms = LowRank(pipe, cross_attention(pipe), RANK, RATE, evidence.seed)
        draws = generator(evidence.seed, "esd", evidence.concept)
        found, retained = counterparts(evidence, OTHERS), [p.text for p in evidence.retained]
        pipe.scheduler.set_timesteps(evidence.model.steps)
        timesteps = sorted({int(t) for t in pipe.scheduler.timesteps.tolist()}, reverse=True)
        levels = [*(float(alphas[t]) for t in timesteps), 1.0]
        with unguided(pipe):
            for number in range(PICTURES):
                asked = [found[i] for i in torch.randint(len(found), (BATCH,), generator=draws).tolist()]
                turns = torch.randint(2**31, (BATCH,), generator=draws).tolist()
                others = [words[turn % len(words)] for (_, words), turn in zip(asked, turns, strict=True)]
                pictures = Pictures(
                    pipe,
                    [text for text, _ in asked],
                    others if settings["against"] == OTHERS else [""] * BATCH,
                    [retained[turn % len(retained)] for turn in turns],
                )
                images = [(f"esd {evidence.concept} {number}", i) for i in range(BATCH)]
                z = initial_noise(evidence.seed, images, latent_shape(pipe, evidence.model)).to(device_of(pipe))
                for timestep, b, a in zip(timesteps, levels[:-1], levels[1:], strict=True):
                    loss, eps = pictures.loss(terms, z, timestep, settings, evidence.model.guidance)
                    terms.step(loss)
                    z = cleaner(z, eps, b, a)
        return terms.parts()


class Pictures:
    """The prompts of a batch of generations, encoded once."""

    def __init__(self, pipe: Any, asked: list[str], against: list[str], retained: list[str]) -> None:
        self.pipe, self.family = pipe, family_of(pipe)
        texts = {"asked": asked, "against": against, "retained": retained, "empty": [""] * len(asked)}
        with torch.no_grad():
            self.told = {name: self.family.encode_prompt(pipe, each) for name, each in texts.items()}

    def eps(self, prompts: str, z: Tensor, timestep: int) -> Tensor:
        """Predicted noise, float32 [b, C, H, W], for one of the lists of prompts, without guidance."""
        net: Any = self.family.denoiser(self.pipe)
        return self.family.predict_noise(self.pipe, z.to(net.dtype), timestep, self.told[prompts]).float()

    def loss(
        self, terms: LowRank, z: Tensor, timestep: int, settings: Settings, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """(loss at z, a scalar; the edited model's guided prediction at z, float32 [b, C, H, W], without gradient)."""
        keep = settings["keep"]
        with torch.no_grad():
            concept, against = self.eps("asked", z, timestep), self.eps("against", z, timestep)
            stay = self.eps("retained", z, timestep) if keep else None
            with terms.attached():
                empty = self.eps("empty", z, timestep)
        with terms.attached(), torch.enable_grad():
            mine = self.eps("asked", z, timestep)
            loss = (mine - wanted(concept, against, settings["eta"])).square().mean()
            if stay is not None:
                loss = loss + keep * (self.eps("retained", z, timestep) - stay).square().mean()
        return loss, guided(mine.detach(), empty, guidance)


def wanted(concept: Tensor, against: Tensor, eta: float) -> Tensor:
    """e(u) - eta (e(c) - e(u))."""
    return against - eta * (concept - against)


def guided(conditional: Tensor, empty: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance; the conditional prediction if the scale is at most 1."""
    return empty + guidance * (conditional - empty) if guidance > 1 else conditional


def cleaner(z: Tensor, eps: Tensor, b: float, a: float) -> Tensor:
    """One DDIM step from cumulative alpha b to the greater a: z_0 = (z - sqrt(1 - b) eps) / sqrt(b), noised to a."""
    clean: Tensor = (z - (1 - b) ** 0.5 * eps) / b**0.5
    return a**0.5 * clean + (1 - a) ** 0.5 * eps
