"""dictionary-learning: TopKTrainer.update, once a batch."""

from benchmarks.sae.adapters.bare import bare
from benchmarks.sae.adapters.protocol import Feed, Setup, serve


def train(setup: Setup, feed: Feed) -> None:
    """Its defaults: Adam, clip 1.0, AuxK for latents that are silent for 10M rows; no warm-up."""
    bare("dictionary_learning")
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=setup.steps,
        activation_dim=setup.width,
        dict_size=setup.latents,
        k=setup.k,
        layer=0,
        lm_name="none",
        lr=setup.lr,
        warmup_steps=0,
        seed=setup.seed,
        device=setup.device,
    )
    feed.reconstruct = trainer.ae
    for step, rows in enumerate(feed):
        trainer.update(step, rows)


if __name__ == "__main__":
    serve(train)
