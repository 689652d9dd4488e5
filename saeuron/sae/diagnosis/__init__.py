"""What an SAE keeps, what it loses, and what each latent responds to, on images that it was not trained on.

gathering.py     sums, largest activations and sample rows of one hookpoint
thirds.py        mean activation at each position over each third of a generation
dictionary.py    cosines between decoder rows, and with those of another SAE
detection.py     how well one latent names a concept, beside controls
explanations.py  what each latent fires on, as a rule in words
dark_matter.py   how much of the error is linear or sparse (2410.14670)
norms.py         |f| against |x|, by the number of active latents (2503.24277)
denoising.py     denoising loss with the reconstruction in place
"""

from typing import Literal

from pydantic import Field

from saeuron.sae.config import Config


class DiagnosisConfig(Config):
    """Settings of a diagnosis."""

    images: int = Field(256, ge=2)
    """Images to generate, spread over the test prompts."""
    rows: int = Field(16384, ge=2)
    """Activation vectors kept of them, a seeded sample, for the linear part of the error and for pursuit."""
    half: Literal["conditional", "unconditional"] = "conditional"
    """Half of the guided batch on which latents are described; FVU and L0 are of both."""
    read: Literal["output", "update"] = "output"
    """Activations that the SAE was trained on: the module's output, or its output minus its input."""
    examples: int = Field(8, ge=1)
    """Images kept per latent with its maps: those with its largest means. Three more show how it goes on."""
    loss_images: int = Field(32, ge=1)
    """Images that are noised again for the denoising loss."""
    loss_steps: int = Field(12, ge=1)
    """Timesteps of the denoising loss, evenly spaced among those of the sampling."""
    seed: int = 4
    """Seed of noise and of other random draws; no run uses it otherwise, so that the images are new."""
