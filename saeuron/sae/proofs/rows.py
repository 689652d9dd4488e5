"""Activations of labelled images at one hookpoint, kept in memory, and SAEs fitted to them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.capturing import capture
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.generation import Request
from saeuron.noise import generator
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import SAEConfig
from saeuron.sae.streams import tensor_of
from saeuron.sae.training import Trainer, together


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a hookpoint for n images at S timesteps."""

    timesteps: tuple[int, ...]
    """[S], descending."""
    values: Tensor
    """[n, S, P, D], float16, bfloat16 or float32."""
    asked: Sequence[Mapping[str, str]]
    """[n], {domain: concept} of each image."""

    def at(self, step: int) -> Tensor:
        """The rows of one of the S timesteps, float32 [n, P, D]."""
        return self.values[:, step].float()

    def of(self, values: Tensor) -> "Rows":
        """Other activations of the same images, [n, S, P, D]."""
        return replace(self, values=values)

    def shows(self, domain: str, concept: str) -> Tensor:
        """Which images ask for a concept, bool [n]."""
        return torch.tensor([asked.get(domain) == concept for asked in self.asked])

    def concepts(self, domain: str) -> list[str]:
        """The concepts of a domain that the images ask for, sorted."""
        return sorted({asked[domain] for asked in self.asked if domain in asked})

    @property
    def domains(self) -> list[str]:
        """The domains that the images ask for, sorted."""
        return sorted({domain for asked in self.asked for domain in asked})


def read(pipe: Any, images: Sequence[Request], hookpoint: str, model: ModelConfig, config: CaptureConfig) -> Rows:
    """Draw images and keep what a hookpoint gives. Raises as `saeuron.capturing.capture`."""
    steps: Sequence[int] = ()
    kept: list[Tensor] = []
    for _, timesteps, arrays, _ in capture(pipe, images, [hookpoint], model, config):
        steps = timesteps[hookpoint]
        kept.append(tensor_of(arrays[hookpoint]))
    return Rows(tuple(steps), torch.stack(kept), [dict(r.prompt.concepts) for r in images])


def fitted(config: SAEConfig, values: Tensor, hookpoint: str = "", device: str = "cpu") -> SAE:
    """An SAE trained on rows [..., D], in an order that its seed draws; they start again at their end.

    Equal rows, settings and seed give an equal SAE. With fewer rows than a batch, a batch is all of them.
    """
    rows = values.reshape(-1, values.shape[-1])
    order = torch.randperm(len(rows), generator=generator(config.seed, "order", len(rows)), device="cpu")
    shuffled: NDArray[Any] = rows[order].float().numpy()
    config = config.model_copy(update={"batch": min(config.batch, len(rows))})
    epoch = len(rows) // config.batch

    def stream(start: int) -> Iterator[NDArray[Any]]:
        for i in itertools.count(start):
            at = i % epoch * config.batch
            yield shuffled[at : at + config.batch]

    trainer = Trainer(config, shuffled.shape[1], hookpoint, device)
    trainer.initialise(torch.from_numpy(np.ascontiguousarray(shuffled[: config.batch])))
    # Rows of any hookpoint: the stream is that of this one.
    together([trainer], stream, {})
    return trainer.sae


@torch.no_grad()
def strengths(sae: SAE, rows: Rows) -> Tensor:
    """A, float32 [n, N]: for each image the mean over timesteps of a latent's largest value over positions."""
    device = sae.W_enc.device
    found = [sae.encode(image.float().to(device)).amax(1).mean(0).cpu() for image in rows.values]
    return torch.stack(found)
