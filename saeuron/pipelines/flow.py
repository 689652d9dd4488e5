"""Base of families with transformers trained by flow matching (SD3, Flux): velocities, and blocks with two streams.

A latent on the way is z_t = (1 - s) z + s eps (2403.03206, section 2), with s = t / 1000 the scheduler's sigma: its
timesteps are sigmas already shifted. The denoiser predicts eps - z.
"""

from typing import Any

from torch import Tensor, nn

from saeuron.pipelines.base import Family

_TEXT_FIRST = frozenset({"JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock"})
"""Blocks that return (text, image). Their attentions return (image, text)."""


class Flow(Family):
    """A transformer and flow matching. `block` gives the image's positions; text has its own modules (`ff_context`)."""

    root = "transformer"
    place = 3
    text_enters = ".attn"

    def samples_with(self, scheduler: type) -> bool:
        return scheduler.__name__.startswith("FlowMatch")

    def worth_naming(self, path: str) -> bool:
        """Blocks of the transformer and their attentions; layers of the text encoders."""
        parts = path.split(".")
        if parts[0] != self.root:
            return len(parts) > 1 and parts[-2] in ("layers", "block")
        return len(parts) == 3 or parts[-1] in ("attn", "attn2")

    def entry(self, module: nn.Module) -> int:
        return int(type(module).__name__ in _TEXT_FIRST)

    def add_noise(self, pipe: Any, clean: Tensor, noise: Tensor, timestep: int) -> Tensor:
        sigma = self.sigma(pipe, timestep)
        return (1 - sigma) * clean + sigma * noise

    def sigma(self, pipe: Any, timestep: float) -> float:
        """The share of noise at a timestep."""
        return float(timestep) / float(pipe.scheduler.config.num_train_timesteps)

    def noise_of(self, pipe: Any, velocity: Tensor, noised: Tensor, timestep: int) -> Tensor:
        """eps = z_t + (1 - s) v, of the predicted velocity v = eps - z."""
        return noised + (1 - self.sigma(pipe, timestep)) * velocity
