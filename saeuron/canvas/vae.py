"""The stand-in for a VAE: an exact, fixed rearrangement of pixels into latent channels.

A latent pixel holds a `patch` x `patch` block of image pixels. Nothing is learned and nothing is lost, so a diffusion
model on these latents is a diffusion model on pixels, at the cost of a latent one.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config

# diffusers looks a custom component's base class up in the namespace of the module that defines it.
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F


class _Exact:
    """A distribution with all its mass on one point, in the shape the pipelines expect of `encode`."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        del generator
        return self.mean

    def mode(self) -> Tensor:
        return self.mean


class PixelUnshuffleVAE(ModelMixin, ConfigMixin):
    """[B, 3, S, S] images <-> [B, 3 p^2, S/p, S/p] latents, without loss.

    Args:
        patch: pixels per side of a latent pixel, a power of two.
        scaling_factor: latents are images times this; read by the diffusers pipelines.
    """

    @register_to_config
    def __init__(self, patch: int = 4, scaling_factor: float = 1.0) -> None:
        super().__init__()
        # The pipelines derive the scale factor, 2 ** (len - 1), from this entry.
        self.register_to_config(block_out_channels=(1,) * patch.bit_length(), latent_channels=3 * patch**2)
        # A module without parameters or buffers has no device or dtype for the pipelines to read.
        self.anchor = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[_Exact]:
        posterior = _Exact(F.pixel_unshuffle(x, self.config.patch))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        del generator
        image = F.pixel_shuffle(z, self.config.patch)
        return DecoderOutput(sample=image) if return_dict else (image,)
