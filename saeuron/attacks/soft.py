"""Token embeddings that a gradient can reach, in a pipeline with one text encoder, and the loss that they lower.

A removal may decide whether it acts at all: by the prompt, by the image, or once at the first step
(`saeuron.methods.detection.decision`). The last is taken here as in a generation from the prompt's own noise: where it
says no, the loss is the unedited model's. A yes or no has no gradient, so how far a gate is open is added to the loss:
the text is also led to where the gate stays shut.

The loss is that of the prediction with the prompt. A removal that acts only under guidance (`Target.guided`) takes no
part in it; its loss is that of what the sampler uses, e_u + g (e_c - e_u) with the model's guidance g.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from saeuron.attacks.attack import Target, tokenizer_of
from saeuron.errors import ConfigError
from saeuron.hooks import device_of
from saeuron.methods.detection.decision import Decision
from saeuron.noise import generator
from saeuron.pipelines import family_of
from saeuron.sae.diagnosis.denoising import evenly

SHUT = 0.1
"""CHOSEN: a gate counts as shut only this far below its threshold, relative to what it reads."""


def allowed(tokenizer: Any, forbidden: str | None = None) -> Tensor:
    """int64 [V]: tokens that are whole words, so that a text with them is read back as the same tokens.

    Args:
        forbidden: a name whose words, and tokens that hold one of them, are left out.
    """
    parts = [] if forbidden is None else [word for word in forbidden.lower().split() if word]
    texts = {token: tokenizer.decode([token]).strip() for token in range(len(tokenizer))}
    found = [
        token
        for token, text in texts.items()
        if text.isalpha()
        and tokenizer(text, add_special_tokens=False).input_ids == [token]
        and not any(part in text.lower() for part in parts)
    ]
    return torch.tensor(found, dtype=torch.int64)


def prefixed(tokenizer: Any, tokens: Tensor, text: str) -> str:
    """The words of some tokens, int64 [n], and then a sentence."""
    return " ".join(tokenizer.decode([int(token)]).strip() for token in tokens) + " " + text


def check_length(tokenizer: Any, texts: Sequence[str]) -> None:
    """Raise ConfigError if the model does not read one of the texts to its end."""
    for text in texts:
        length = len(tokenizer(text).input_ids)
        if length > tokenizer.model_max_length:
            raise ConfigError(
                f"{text!r} is {length} tokens with the words of the attack, and the model reads "
                f"{tokenizer.model_max_length}: take fewer words (--words)."
            )


@contextmanager
def replaced(pipe: Any, where: Tensor, embeddings: Tensor, ids: Tensor | None = None) -> Iterator[None]:
    """Put embeddings in place of those of some tokens while prompts are encoded.

    Args:
        where: bool [B, L], or int64 [] for every token with that id.
        embeddings: float32 [number of true entries, d], row by row; or [d].
        ids: int64 [B, L], the only batch in which this is done; None: in every one of that shape.
    """
    table = pipe.text_encoder.get_input_embeddings()

    def after(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        del module
        mask = args[0] == where.to(args[0].device) if where.ndim == 0 else where
        if mask.shape != output.shape[:-1] or not mask.any():
            return None  # another batch, such as the empty prompts of guidance
        if ids is not None and not torch.equal(args[0], ids.to(args[0].device)):
            return None
        new = output.clone()
        new[mask] = embeddings.to(output.dtype)
        return new

    handle = table.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def unguided(pipe: Any) -> AbstractContextManager[None]:
    """The denoiser's batch holds conditional rows alone, as if the pipeline had been called without guidance."""
    return at_guidance(pipe, 1.0)


@contextmanager
def at_guidance(pipe: Any, scale: float) -> Iterator[None]:
    """The denoiser's batch holds the rows that it has in a call of the pipeline with this guidance scale."""
    had = vars(pipe).get("_guidance_scale")
    pipe._guidance_scale = scale
    try:
        yield
    finally:
        if had is None:
            # A pipeline that was never called has none, and does not take None for a number.
            del pipe._guidance_scale
        else:
            pipe._guidance_scale = had


class Prediction:
    """What a target's sampler uses; see the head of this file. Made by `predicting`."""

    def __init__(self, target: Target) -> None:
        self.target, self.family = target, family_of(target.pipe)

    def encoded(self, texts: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments of the denoiser for these prompts, and for the removal's negative prompt."""
        negative = self.target.call.get("negative_prompt", "")
        return self.family.encode_prompt(self.target.pipe, texts, *([negative] if negative else []))

    def noise(self, noised: Tensor, timestep: int, words: Mapping[str, Any]) -> Tensor:
        """Predicted noise [b, C, H, W] for latents z_t of that shape."""
        found = self.family.predict_noise(self.target.pipe, noised, timestep, words)
        if not self.target.guided:
            return found
        without, with_prompt = found.chunk(2)
        return without + self.target.model.guidance * (with_prompt - without)


@contextmanager
def predicting(target: Target) -> Iterator[Prediction]:
    """A context in which a target's denoiser is called outside its pipeline.

    Raises:
        ConfigError: its removal acts only under guidance, which this pipeline applies only within a call, or the model
            is sampled without.
    """
    pipe = target.pipe
    with at_guidance(pipe, target.model.guidance if target.guided else 1.0):
        if target.guided and not family_of(pipe).guided(pipe):
            raise ConfigError(
                f"this removal acts only under guidance, and {type(pipe).__name__} has none outside a call, or "
                f"model.guidance is {target.model.guidance:g}: take others (--attack paraphrase)."
            )
        yield Prediction(target)


class Noised:
    """Pictures of the concept, noised at each of the model's timesteps: what the edited model should denoise."""

    def __init__(self, target: Target, steps: int) -> None:
        self.target, self.family = target, family_of(target.pipe)
        tokenizer_of(target.pipe)
        if not hasattr(target.pipe.scheduler, "alphas_cumprod"):
            raise ConfigError(
                f"the scheduler {type(target.pipe.scheduler).__name__} has no alphas_cumprod; attacks by gradients "
                "know variance-preserving ones: leave them out (--attack paraphrase)."
            )
        target.pipe.scheduler.set_timesteps(target.model.steps)
        known = sorted({int(t) for t in target.pipe.scheduler.timesteps.tolist()}, reverse=True)
        self.timesteps = evenly(known, steps)
        self.clean = self.family.encode_images(target.pipe, torch.from_numpy(target.pictures))

    def loss(self, indices: Sequence[int], texts: Sequence[str], timestep: int, *part: object) -> Tensor:
        """|eps_edit(z_t, text) - eps|^2, the mean over a picture, plus how far gates are open; [len(indices)].

        eps_edit is `Prediction.noise`.

        `part` seeds the noise.
        """
        target, pipe = self.target, self.target.pipe
        noise = torch.stack(
            [
                torch.randn(
                    self.clean.shape[1:],
                    generator=generator(target.seed, "attack", target.prompts[i].id, timestep, *part),
                    device="cpu",
                )
                for i in indices
            ]
        ).to(self.clean)
        with predicting(target) as model, ExitStack() as held:
            noised = self.family.add_noise(pipe, self.clean[list(indices)], noise, timestep)
            margins = [held.enter_context(gate.held()) for gate in target.gates]
            words = model.encoded(texts)
            self._decide(indices, words)
            found = model.noise(noised, timestep, words)
            opened = [torch.stack(each).amax(0) for each in margins if each]
        loss = (found.float() - noise.float()).square().flatten(1).mean(1)
        return loss + sum(((margin + SHUT).clamp(min=0) for margin in opened), torch.zeros_like(loss))

    def _decide(self, indices: Sequence[int], words: Mapping[str, Any]) -> None:
        """Run the first step unedited, from the prompts' own noise; decisions look at it, and at nothing later."""
        gates, pipe = [gate for gate in self.target.gates if isinstance(gate, Decision)], self.target.pipe
        if not gates:
            return
        scheduler = copy.deepcopy(pipe.scheduler)
        scheduler.set_timesteps(self.target.model.steps)
        z = self.target.noise(indices).to(self.clean) * scheduler.init_noise_sigma
        first = scheduler.timesteps[0]
        for gate in gates:
            gate.silent, gate.asleep = True, False
        try:
            self.family.predict_noise(pipe, scheduler.scale_model_input(z, first), int(first), words)
        finally:
            for gate in gates:
                gate.silent, gate.asleep = False, True


def table_of(pipe: Any, tokens: Tensor) -> Tensor:
    """Embeddings of some tokens, float32 [n, d], on the pipeline's device."""
    weight = pipe.text_encoder.get_input_embeddings().weight
    return weight.detach()[tokens.to(weight.device)].float().to(device_of(pipe))
