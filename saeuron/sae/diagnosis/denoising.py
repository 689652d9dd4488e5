"""The cost of an SAE's error for the model: the denoising loss with the reconstruction in place.

Clean images are generated, encoded to latents z by the pipeline's VAE, and noised to a timestep t of its own sampling
with noise eps: z_t = sqrt(a_t) z + sqrt(1 - a_t) eps. The loss is the mean square of (eps - the denoiser's prediction).
The batch holds the same halves as in sampling, and each half's loss is that of its own prediction, before guidance. The
hookpoint's output is unchanged (clean), replaced by x_hat at every position (sae), or replaced by zero (zero). An SAE
of updates replaces output minus input, so that zero lets the input through.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.hooks import Step, attached, from_rows, to_rows
from saeuron.noise import generator
from saeuron.pipelines import family_of
from saeuron.sae.autoencoder import SAE
from saeuron.sae.diagnosis import DiagnosisConfig

Kind = Literal["clean", "sae", "zero"]
KINDS: tuple[Kind, ...] = ("clean", "sae", "zero")


class Loss(NamedTuple):
    """Mean squared error of the predicted noise, over images, channels and pixels, at one timestep and half."""

    timestep: int
    half: str
    clean: float
    sae: float
    zero: float


def recovered(losses: Sequence[Loss]) -> float | None:
    """(L_zero - L_sae) / (L_zero - L_clean), of summed losses; None if zero costs nothing."""
    clean, sae, zero = (sum(getattr(loss, kind) for loss in losses) for kind in KINDS)
    return (zero - sae) / (zero - clean) if zero > clean else None


@torch.no_grad()
def denoising_losses(
    pipe: Any, sae: SAE, images: Sequence[Request], model: ModelConfig, config: DiagnosisConfig
) -> list[Loss]:
    """Losses at each timestep and half, noisiest first; generates the images first."""
    family, in_text = family_of(pipe), sae.info.hookpoint.split(".")[0] in family_of(pipe).text_roots
    sums: dict[tuple[int, str, Kind], float] = {}
    for batch, pictures in generate(pipe, images, model, config.seed):
        clean, texts = family.encode_images(pipe, torch.from_numpy(pictures)), [r.prompt.text for r in batch]
        halves = ("unconditional", "conditional") if family.guided(pipe) else ("conditional",)
        prompts = family.encode_prompt(pipe, texts)
        # Some schedulers repeat timesteps, or have fractional ones.
        timesteps = sorted({int(t) for t in pipe.scheduler.timesteps.tolist()}, reverse=True)
        for timestep in evenly(timesteps, config.loss_steps):
            noise = torch.stack(
                [
                    torch.randn(
                        clean.shape[1:], generator=generator(config.seed, "loss", r.key, timestep), device="cpu"
                    )
                    for r in batch
                ]
            ).to(clean)
            noised = family.add_noise(pipe, clean, noise, timestep)
            for kind in KINDS:
                with Replacement(sae, config.read, kind).attached(pipe):
                    words = family.encode_prompt(pipe, texts) if in_text else prompts
                    found = family.predict_noise(pipe, noised, timestep, words)
                for half, part in zip(halves, found.chunk(len(halves)), strict=True):
                    square = (part.double() - noise.double()).square().flatten(1).mean(1).sum()
                    sums[timestep, half, kind] = sums.get((timestep, half, kind), 0.0) + float(square)
    found_at = sorted({(t, half) for t, half, _ in sums}, key=lambda each: (-each[0], each[1]))
    return [Loss(t, half, *(sums[t, half, kind] / len(images) for kind in KINDS)) for t, half in found_at]


class Replacement:
    """Replaces the output of a hookpoint by x_hat or zero."""

    def __init__(self, sae: SAE, read: Literal["output", "update"], kind: Kind) -> None:
        self.sae, self.read, self.kind = sae, read, kind
        self._source: Tensor | None = None

    def attached(self, pipe: Any) -> Any:
        """A context in which the replacement is active."""
        path = self.sae.info.hookpoint
        if self.kind == "clean":
            return attached(pipe)
        return attached(pipe, readers={path: self._remember}, editors={path: [self._replace]})

    def _remember(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del step, output
        self._source = source

    def _replace(self, step: Step, output: Tensor) -> Tensor:
        del step
        base = torch.zeros_like(output) if self.read == "output" or self._source is None else self._source
        if self.kind == "zero":
            return base
        rows = to_rows(output - base)
        return from_rows(self.sae(rows.float()).to(output.dtype), output) + base


def evenly(values: list[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spaced, including the first and the last."""
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]
