"""What the tests of every variant share: synthetic sparse data with known directions, and gradients in float64."""

import pytest
import torch

from saeuron.sae.config import SAEConfig
from saeuron.sae.training import Trainer
from saeuron.sae.variants import make


def planted(count, generator, directions, active=3):
    """Rows that are sums of a few of the `directions` [M, D], with strengths between 1 and 2, and an offset."""
    which = torch.rand(count, len(directions), generator=generator).argsort(1)[:, :active]
    strengths = 1 + torch.rand(count, active, generator=generator)
    return torch.zeros(count, len(directions)).scatter(1, which, strengths) @ directions + 0.5


@pytest.fixture
def recovered():
    """Train on planted data: (config) -> SAE, mean over the directions of the best cosine, held-out rows."""

    def run(config: SAEConfig, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        directions = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
        trainer = Trainer(config, 16, "")
        for step in range(config.steps):
            rows = planted(config.batch, generator, directions)
            if step == 0:
                trainer.initialise(rows)
            trainer.step(rows)
        sae = trainer.sae
        unit = torch.nn.functional.normalize(sae.W_dec, dim=1)
        return sae, float((directions @ unit.T).amax(1).mean()), planted(4096, generator, directions)

    return run


@pytest.fixture
def random_variant():
    """Build (config, width, path) -> a variant in float64 with random weights, the same for every path."""

    def build(config: SAEConfig, width: int = 8, path: str = "plain", seed: int = 0):
        variant = make(config, width).double()
        if hasattr(variant, "fast"):
            variant.fast = path == "fast"
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in variant.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            variant.constrain()
        return variant

    return build
