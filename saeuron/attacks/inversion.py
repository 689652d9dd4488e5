"""No text: starting noise that holds a picture of the concept, found by running the edited sampler backwards.

Deterministic sampling (DDIM, 2010.02502) goes from z at a level b of noise to z at a cleaner level a by

    z_0 = (z_b - sqrt(1 - b) eps(z_b)) / sqrt(b),   z_a = sqrt(a) z_0 + sqrt(1 - a) eps(z_b)

where a and b are cumulative alphas. The z_b that leads to a given z_a is found by repeating

    z_b <- z_b + (z_a - step(z_b)) / (sqrt(a b) + sqrt((1 - a) (1 - b)))

with the removal attached, an empty prompt and no guidance, from the picture to the noisiest step. The divisor is the
derivative of the step for a denoiser whose v = (eps - sqrt(1 - b) z_b) / sqrt(b) hardly depends on z_b.

Drawing from that noise brings the picture back wherever the removal acts on texts alone. The first picture is drawn
with the prompt and the model's guidance, the second with the empty prompt and none. A removal that acts only under
guidance (`Target.guided`) would be switched off without it: for one, the sampler is run backwards, and the second
picture drawn, with the model's guidance.
"""

from collections.abc import Iterator

import torch

from saeuron.attacks.attack import Attack, Attempt, Effort, Target, attempts
from saeuron.attacks.soft import predicting
from saeuron.errors import ConfigError
from saeuron.memory import LANES
from saeuron.pipelines import family_of

ROUNDS = 5
"""Repetitions at each step."""


class Inversion(Attack):
    """The attack that empties removals that act on texts."""

    name = "inversion"

    def __call__(self, target: Target, effort: Effort) -> Iterator[list[Attempt]]:
        del effort
        if not target.todo:
            return
        noise = inverted(target)
        for number in (0, 1):
            todo = target.todo
            if not todo:
                return
            texts = ["" if number else target.text(i) for i in todo]
            pictures = target.draw(texts, noise[todo], guidance=1.0 if number and not target.guided else None)
            yield attempts(todo, texts, pictures, number)


@torch.no_grad()
def inverted(target: Target) -> torch.Tensor:
    """Starting noise of every picture, float32 [n, C, H, W], on the CPU.

    Raises:
        ConfigError: the scheduler has no alphas_cumprod, or guidance cannot be computed outside a call.
    """
    pipe, family = target.pipe, family_of(target.pipe)
    alphas = getattr(pipe.scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ConfigError(
            f"the scheduler {type(pipe.scheduler).__name__} has no alphas_cumprod; inversion knows variance-preserving "
            "ones: leave it out (--attack paraphrase)."
        )
    pipe.scheduler.set_timesteps(target.model.steps)
    timesteps = sorted({int(t) for t in pipe.scheduler.timesteps.tolist()})
    levels = [1.0, *(float(alphas[t]) for t in timesteps)]
    found, size = [], target.model.micro_batch
    for start in range(0, len(target.pictures), size):
        pictures = torch.from_numpy(target.pictures[start : start + size])
        count = len(pictures)
        # Padded as in a generation, so that the bits of a picture's noise do not depend on how many there are.
        lacking = min(-(-count // LANES) * LANES, size) - count
        z = family.encode_images(pipe, torch.cat([pictures, pictures[-1:].expand(lacking, -1, -1, -1)]))
        with predicting(target) as model:
            words = model.encoded([""] * len(z))
            for timestep, a, b in zip(timesteps, levels, levels[1:], strict=False):
                cleaner, slope = z, (a * b) ** 0.5 + ((1 - a) * (1 - b)) ** 0.5
                for _ in range(ROUNDS):
                    eps = model.noise(z, timestep, words)
                    step = (a / b) ** 0.5 * (z - (1 - b) ** 0.5 * eps) + (1 - a) ** 0.5 * eps
                    z = z + (cleaner - step) / slope
        found.append(z[:count].float().cpu())
    return torch.cat(found)
