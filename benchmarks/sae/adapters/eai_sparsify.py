"""eai-sparsify: its Trainer.fit, untouched, over a stand-in model whose one layer gives the rows."""

import torch
from torch import Tensor, nn

from benchmarks.sae.adapters.protocol import Feed, Setup, serve


class Rows(nn.Module):
    """A stand-in for a language model: the layer that Trainer hooks returns the next batch, as a sequence [1, B, D]."""

    def __init__(self, width: int, device: str) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.device = torch.device(device)
        self.dummy_inputs = {"ids": torch.zeros(1, 1, dtype=torch.int64, device=device)}
        self.rows = torch.zeros(1, width, device=device)

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.rows[None])


class Sequences:
    """The data set: one sequence a step; asking for it sets the model's rows."""

    def __init__(self, setup: Setup, feed: Feed, model: Rows) -> None:
        self.length, self.feed, self.model = setup.steps, feed, model
        self.ids = torch.zeros(setup.batch, dtype=torch.int64)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.model.rows = next(self.feed)
        return {"input_ids": self.ids}


def train(setup: Setup, feed: Feed) -> None:
    """Its defaults (FVU loss, no AuxK, no gradient clip) with its Adam, whose moments are float32 on the CPU."""
    from sparsify import SaeConfig, TrainConfig, Trainer

    config = TrainConfig(
        SaeConfig(num_latents=setup.latents, k=setup.k),
        batch_size=1,
        optimizer="adam",
        lr=setup.lr,
        lr_warmup_steps=0,
        hookpoints=["layer"],
        init_seeds=[setup.seed],
        log_to_wandb=False,
    )
    model = Rows(setup.width, setup.device)
    trainer = Trainer(config, Sequences(setup, feed, model), model)
    feed.reconstruct = lambda x: trainer.saes["layer"](x).sae_out
    trainer.fit()


if __name__ == "__main__":
    serve(train)
