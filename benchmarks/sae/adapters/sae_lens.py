"""sae-lens: TopKTrainingSAE in SAETrainer.fit; the variant `sparse` sets its `use_sparse_activations`."""

from benchmarks.sae.adapters.protocol import Feed, Setup, serve


def train(setup: Setup, feed: Feed) -> None:
    """Its defaults: Adam, clip 1.0, auxiliary loss for latents that are silent for 1000 steps; nothing is logged."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sparse = setup.variant == "sparse"
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=setup.width,
            d_sae=setup.latents,
            k=setup.k,
            device=setup.device,
            use_sparse_activations=sparse,
            # Sparse activations times a dense row have no backward pass on the CPU.
            rescale_acts_by_decoder_norm=not sparse,
        )
    )
    feed.reconstruct = sae
    config = SAETrainerConfig(
        total_training_samples=setup.steps * setup.batch,
        train_batch_size_samples=setup.batch,
        lr=setup.lr,
        lr_end=setup.lr,
        device=setup.device,
    )
    SAETrainer(config, sae, feed).fit()


if __name__ == "__main__":
    serve(train)
