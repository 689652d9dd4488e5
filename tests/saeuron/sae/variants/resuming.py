"""Rows on which latents die, and a training that ends with the same bytes when it is interrupted."""

import torch

from saeuron.sae.autoencoder import SAE
from saeuron.sae.training import Trainer


def rows(count=30, width=8):
    """Batches [count, 64, D] whose later ones live in a subspace, so that latents die."""
    found = torch.randn(count, 64, width, generator=torch.Generator().manual_seed(0)).half()
    found[count // 3 :, :, width // 2 :] *= 0.05
    return found


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resumed(config, folder, begun=lambda trainer: None):
    """Thirty steps are thirteen and seventeen more, to the byte, and the saved SAE is the trained one.

    `begun` is called with a trainer before its first step. Returns the trainers of 30 and of 13 steps.
    """
    data = rows()
    whole, first, second = (Trainer(config, 8, "h") for _ in range(3))
    for trainer, batches in ((whole, data), (first, data[:13])):
        trainer.initialise(data[0])
        begun(trainer)
        for batch in batches:
            trainer.step(batch)
    first.save(folder / "first")
    second.load(folder / "first")
    for batch in data[13:]:
        second.step(batch)
    assert second.history == whole.history
    whole.save(folder / "whole")
    second.save(folder / "second")
    assert (folder / "whole").read_bytes() == (folder / "second").read_bytes()

    whole.sae.save(folder / "sae")
    loaded, x = SAE.load(folder / "sae"), data[-1].float()
    assert loaded.info == whole.sae.info
    assert torch.equal(loaded.encode(x), whole.sae.encode(x)) and torch.equal(loaded(x), whole.sae(x))
    return whole, first
