"""Not a contestant: what no step can do without.

One step is one product at the encoder's shape, 2 B D N operations: in float32 on the CPU, where all else is small; in
bfloat16 on a GPU, and with it the bytes that Adam must move.
"""

import torch

from benchmarks.sae.adapters.protocol import Feed, Setup, serve


def train(setup: Setup, feed: Feed) -> None:
    """[B, D] @ [D, N] into memory that is there; on a GPU also a copy that moves as many bytes as Adam does."""
    gpu = setup.device != "cpu"
    dtype = torch.bfloat16 if gpu else torch.float32
    weight = torch.randn(setup.latents, setup.width, device=setup.device).to(dtype) / setup.width**0.5
    out = torch.empty(setup.batch, setup.latents, device=setup.device, dtype=dtype)
    # Four float32 are read and three written for each of the 2 D N weights: seven, so half of them copied.
    source, target = torch.empty(2, 7 * setup.latents * setup.width if gpu else 0, device=setup.device)
    for rows in feed:
        torch.mm(rows.to(dtype), weight.T, out=out)
        target.copy_(source)


if __name__ == "__main__":
    serve(train)
