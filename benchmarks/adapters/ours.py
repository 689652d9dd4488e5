"""This project: `saeuron.sae_training.Trainer`, one `step` a batch; variants `fast` and `plain` are its paths."""

import inspect

from benchmarks.adapters.protocol import Feed, Setup, serve


def train(setup: Setup, feed: Feed) -> None:
    """TopK; Adam, AuxK and the gradient clip as in SAEConfig."""
    from saeuron.config import SAEConfig
    from saeuron.sae_training import Trainer

    config = SAEConfig(
        variant="topk",
        expansion=setup.latents // setup.width,
        k=setup.k,
        batch=setup.batch,
        steps=setup.steps,
        lr=setup.lr,
        seed=setup.seed,
    )
    options = {"path": setup.variant} if setup.variant else {}
    if unknown := options.keys() - inspect.signature(Trainer).parameters.keys():
        raise ValueError(f"this Trainer has no choice of {', '.join(unknown)}; it has one way to do the step")
    trainer = Trainer(config, width=setup.width, hookpoint="", **options)
    trainer.initialise(feed.batch(0))
    feed.reconstruct = lambda x: trainer.sae(x)
    feed.curve = lambda: [point.fvu for point in trainer.history]
    for rows in feed:
        trainer.step(rows)


if __name__ == "__main__":
    serve(train)
