"""What an SAE keeps, what it loses, and what each of its latents stands for, on images that it was not trained on.

gathering.py    sums, largest activations and sample rows of one hookpoint
dictionary.py   how decoder rows lie to each other, and to those of another SAE
dark_matter.py  how much of the error is linear or sparse (2410.14670)
denoising.py    denoising loss with the reconstruction in place
"""

from typing import Literal

from pydantic import Field

from saeuron.schema import Config


class DiagnosisConfig(Config):
    """How an SAE is looked at."""

    images: int = Field(256, ge=2)
    """Images that are generated, spread over the test prompts."""
    rows: int = Field(16384, ge=2)
    """Activation vectors kept of them, a seeded sample, for what needs rows: the linear part of the error, pursuit."""
    half: Literal["conditional", "unconditional"] = "conditional"
    """Half of the guidance batch that latents are described on; FVU and L0 are of both."""
    read: Literal["output", "update"] = "output"
    """What the SAE was trained on: the module's output, or its output minus its input."""
    examples: int = Field(8, ge=1)
    """Images kept of each latent, those on which it is largest."""
    loss_images: int = Field(32, ge=1)
    """Images that are noised again for the denoising loss."""
    loss_steps: int = Field(12, ge=1)
    """Timesteps at which they are, evenly spaced among those of the sampling."""
    seed: int = 4
    """Seed of noise and of whatever is chosen: none of a run's own, so that no image was used before."""
