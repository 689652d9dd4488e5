"""overcomplete: TopKSAE in train_sae, with the loss and the optimizer of its README, and no monitoring."""

import torch
from torch import Tensor

from benchmarks.sae.adapters.bare import bare
from benchmarks.sae.adapters.protocol import Feed, Setup, serve


def mean_squared_error(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    """The criterion of its README."""
    return (x - x_hat).square().mean()


def train(setup: Setup, feed: Feed) -> None:
    """One endless epoch; clip 1.0 is train_sae's default."""
    bare("overcomplete")
    from overcomplete.sae import TopKSAE, train_sae

    sae = TopKSAE(setup.width, setup.latents, top_k=setup.k, device=setup.device)
    feed.reconstruct = lambda x: sae(x)[2]
    optimizer = torch.optim.Adam(sae.parameters(), lr=setup.lr)
    train_sae(sae, feed, mean_squared_error, optimizer, nb_epochs=1, monitoring=0)


if __name__ == "__main__":
    serve(train)
