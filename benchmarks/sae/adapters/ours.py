"""This project: `saeuron.sae.training.Trainer`, one `step` a batch.

Variants name its path (`fast`, `plain`), kernels (`torch`, `triton`) and precision (`float32`, `bfloat16`), or none of
them.
"""

from benchmarks.sae.adapters.protocol import Feed, Setup, serve


def train(setup: Setup, feed: Feed) -> None:
    """TopK; Adam, AuxK and the gradient clip as in SAEConfig."""
    from saeuron.sae.config import SAEConfig
    from saeuron.sae.training import Trainer

    words = set(setup.variant.split())
    if unknown := words - {"fast", "plain", "torch", "triton", "float32", "bfloat16"}:
        raise ValueError(f"ours has no way to do the step that is called {', '.join(sorted(unknown))}")
    config = SAEConfig(
        precision="bfloat16" if "bfloat16" in words else "float32",
        kernels="triton" if "triton" in words else "torch",
        variant="topk",
        expansion=setup.latents // setup.width,
        k=setup.k,
        batch=setup.batch,
        steps=setup.steps,
        lr=setup.lr,
        seed=setup.seed,
    )
    trainer = Trainer(
        config,
        width=setup.width,
        hookpoint="",
        device=setup.device,
        path=next((path for path in ("fast", "plain") if path in words), "auto"),
    )
    trainer.initialise(feed.batch(0))
    feed.reconstruct = lambda x: trainer.sae.to(setup.device)(x)
    for rows in feed:
        trainer.step(rows)


if __name__ == "__main__":
    serve(train)
