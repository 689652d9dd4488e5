"""Latents of a vision model's rows: an archetypal SAE (RA-SAE, 2502.12892), and how strong each is in a picture.

    xi(picture)   = mean over positions of f        peak(picture) = max over positions of f
    error(picture) = mean over positions of |x - x_hat|^2 / |x - b_dec|^2, both summed over positions first

Atoms of an archetypal SAE lie near the rows that it was given, so that two trainings name the same things. It is
trained on real rows and generated ones alike: a latent that only one side has must be there to be missed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config, RASAEOptions, SAEConfig
from saeuron.sae.streams import in_memory
from saeuron.sae.training import Point, Trainer

_CHUNK = 128
"""Pictures encoded at once: bounds the memory, [pictures, positions, N]."""
Numbers = NDArray[np.float64]


class DictionaryConfig(Config):
    """The SAE of a vision model's rows."""

    expansion: int = Field(4, ge=1)
    """Latents per number of a row."""
    k: int = Field(4, ge=1)
    """Latents that fire in a row, on average."""
    candidates: int = Field(256, ge=1)
    """Rows that atoms lie near, at most."""
    steps: int = Field(1000, ge=1)
    """Steps of training, at most."""
    passes: int = Field(40, ge=1)
    """How often each row is seen, at most: few rows would be learned by heart."""
    batch: int = Field(512, ge=1)
    """Rows per step."""
    lr: float = Field(1e-2, gt=0)
    """Peak learning rate."""
    seed: int = 0
    """Seed of weights, of candidates and of the order of rows."""


def learn(rows: Tensor, config: DictionaryConfig, report: Callable[[Point], None] = lambda point: None) -> SAE:
    """Train on rows float32 [M, D]; they are scaled in training, and the SAE takes them as they are.

    Raises:
        ConfigError: the configuration does not fit the width, or training diverges.
    """
    steps = min(config.steps, -(-config.passes * len(rows) // config.batch))
    sae = SAEConfig(
        variant="ra_sae",
        expansion=config.expansion,
        k=config.k,
        steps=steps,
        batch=config.batch,
        lr=config.lr,
        seed=config.seed,
        normalize=True,
        ra_sae=RASAEOptions(candidates=config.candidates),
    )
    trainer = Trainer(sae, rows.shape[1], "")
    stream = in_memory(rows.numpy(), config.batch, config.seed)
    batches = stream(0)
    trainer.initialise(torch.from_numpy(next(stream(0))))
    for _ in range(steps):
        before = len(trainer.history)
        trainer.step(torch.from_numpy(next(batches)))
        if len(trainer.history) > before:
            report(trainer.history[-1])
    return trainer.sae.eval().requires_grad_(False)


class Strengths(NamedTuple):
    """How strong latents are in pictures."""

    mean: Numbers
    """xi, [B, N]."""
    peak: Numbers
    """[B, N]."""
    error: Numbers
    """[B]: the share of a picture's rows that the latents do not rebuild."""

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Strengths":
        """The strengths of some pictures."""
        return Strengths(self.mean[which], self.peak[which], self.error[which])


@torch.inference_mode()
def strengths(sae: SAE, rows: Tensor) -> Strengths:
    """The strengths of latents in pictures whose rows are float32 [B, P, D]."""
    mean, peak, error = [], [], []
    for part in rows.split(_CHUNK):
        f = sae.encode(part)
        left = (part - sae.decode(f)).square().sum((1, 2))
        mean.append(f.mean(1))
        peak.append(f.amax(1))
        error.append(left / (part - sae.b_dec).square().sum((1, 2)).clamp(min=1e-12))
    return Strengths(*(torch.cat(found).double().numpy() for found in (mean, peak, error)))


def components(real: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The control: principal components of flat pictures, (mean [F], directions [count, F]), of pictures [B, F]."""
    mean = real.mean(0)
    _, _, directions = torch.linalg.svd(real - mean, full_matrices=False)
    return mean, directions[:count]


def projected(mean: Tensor, directions: Tensor, pictures: Tensor) -> Strengths:
    """Either side of each component as a latent: max(0, +-(x - mean) . direction), N = 2 count."""
    along = (pictures - mean) @ directions.T
    f = torch.cat([along.clamp(min=0), (-along).clamp(min=0)], 1).double().numpy()
    left = ((pictures - mean).square().sum(1) - along.square().sum(1)).clamp(min=0)
    return Strengths(f, f, (left / (pictures - mean).square().sum(1).clamp(min=1e-12)).double().numpy())
