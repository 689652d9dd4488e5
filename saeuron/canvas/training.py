"""Train a canvas from nothing, with exact resume, or warm from other weights.

Each step's data come from a generator seeded by (seed, step), so the state of a run is its weights, their running
mean, the optimizer's moments and one number.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from saeuron.canvas.batches import Prompts, draw_labels, draw_times
from saeuron.canvas.card import FIGURES, TRAINING, write_card
from saeuron.canvas.model import Architecture, build_pipeline
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import vocabulary_named
from saeuron.checkpoint import load_tensors, pack_optimizer, prefixed, save_tensors, stripped, unpack_optimizer
from saeuron.errors import ConfigError

log = logging.getLogger(__name__)

CHECKPOINT = "state.safetensors"
CHANGEABLE = ("images", "decay", "unstyled", "early")
"""Fields of a run's configuration that may change on the way."""


class TrainConfig(BaseModel):
    """How a canvas is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture = Architecture()
    """Sizes of the pipeline."""
    vocabulary: str = "canvas20"
    """Name of the vocabulary: which objects there are."""
    seed: int = 0
    """Seed of the initial weights and of every step's data."""
    images: int = 400_000
    """Images to train on in all; the learning rate decays to zero over the last `decay` of them."""
    batch: int = 64
    """Images per step."""
    lr: float = 1e-3
    """Peak learning rate (AdamW)."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: float = 0.5
    """Fraction of the run over which the learning rate falls linearly to zero."""
    dropout: float = 0.1
    """Fraction of prompts replaced by the empty one, for classifier-free guidance."""
    ema: float = 0.998
    """Decay of the running mean of the weights, which is what is shipped."""
    unstyled: float | None = None
    """Share of the images without a style until the learning rate falls, then all style classes alike; None: always."""
    early: bool = False
    """Draw time steps toward noise until the learning rate falls, then uniformly."""
    unusual: float = 0.0
    """Share of the prompts that are paraphrases, descriptions and misspellings."""
    bfloat16: bool = False
    """Compute in bfloat16 where that is safe (autocast); the weights stay float32."""
    before: int = 0
    """Images of this vocabulary that the weights had seen when the run began, from them and not from nothing."""

    @property
    def steps(self) -> int:
        return self.images // self.batch

    def falling(self, step: int) -> bool:
        """Whether the learning rate falls at `step`."""
        return self.steps - step <= round(self.decay * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate at `step` as a fraction of its peak: warm-up, plateau, linear decay."""
        left = (self.steps - step) / max(1, round(self.decay * self.steps))
        return min(1.0, (step + 1) / self.warmup, max(left, 0.0))


class Trainer:
    """The state of one training run on one device."""

    def __init__(self, config: TrainConfig, device: torch.device, warm: StableDiffusionPipeline | None = None) -> None:
        self.config, self.device, self.step_index = config, device, 0
        self.vocabulary = vocabulary_named(config.vocabulary)
        self.pipe = warm or build_pipeline(config.architecture, config.seed, self.vocabulary)
        self.pipe.to(device=device, dtype=torch.float32)
        # At these sizes the plain processor is faster than scaled_dot_product_attention on CPU.
        self.pipe.unet.set_attn_processor(AttnProcessor())
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.pipe.unet.train()
        self.pipe.text_encoder.train()
        self.prompts = Prompts(self.pipe, self.vocabulary)
        named = [*self.pipe.unet.named_parameters(prefix="unet"), *self.pipe.text_encoder.named_parameters("text")]
        self.parameters = dict(named)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.ema = {n: p.detach().clone() for n, p in named}
        alphas = self.pipe.scheduler.alphas_cumprod.to(device)
        self.signal, self.sigma = alphas.sqrt(), (1 - alphas).sqrt()

    def step(self) -> float:
        """One optimizer step; returns the loss (mean squared error of the velocity)."""
        config = self.config
        # Drawn on the CPU, so that a run has the same data on any device.
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step_index + 1)
        falling = config.falling(self.step_index)
        images, tokens = (drawn.to(self.device) for drawn in self.batch(generator, falling))
        clean = F.pixel_unshuffle(images, config.architecture.patch)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        early = config.early and not falling
        times = draw_times(config.batch, len(self.signal), generator, early).to(self.device)
        signal, sigma = (c[times].view(-1, 1, 1, 1) for c in (self.signal, self.sigma))
        noisy = signal * clean + sigma * noise
        velocity = signal * noise - sigma * clean

        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.rate(self.step_index)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            context = self.pipe.text_encoder(tokens)[0]
            predicted = self.pipe.unet(noisy, times, context).sample
        loss = F.mse_loss(predicted.float(), velocity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_index += 1
        decay = min(config.ema, self.step_index / (self.step_index + 10))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return loss.item()

    def batch(self, generator: torch.Generator, falling: bool) -> tuple[Tensor, Tensor]:
        """(pictures, float32 [B, 3, 32, 32] in [-1, 1]; token ids of their sentences, int64 [B, length]) of a step."""
        config = self.config
        objects, styles = draw_labels(self.vocabulary, config.batch, generator, None if falling else config.unstyled)
        images = render(objects, styles, generator, self.vocabulary.objects)
        return images, self.prompts.sample(objects, styles, config.dropout, generator, config.unusual)

    @torch.no_grad()
    def mean(self) -> StableDiffusionPipeline:
        """The pipeline with the running mean of its weights, to generate with; training ends with this."""
        for name, value in self.parameters.items():
            value.copy_(self.ema[name])
        self.pipe.unet.eval()
        self.pipe.text_encoder.eval()
        return self.pipe

    def save(self, folder: Path) -> None:
        """Everything needed to go on exactly, in one file."""
        tensors = prefixed("weights", self.parameters) | prefixed("ema", self.ema)
        tensors |= pack_optimizer(self.optimizer, "optimizer")
        save_tensors(folder / CHECKPOINT, tensors, {"step": self.step_index, "config": self.config.model_dump()})

    def load(self, folder: Path) -> None:
        """Go on from `save`. Only what `CHANGEABLE` names may differ: it makes a run longer, ends it, or turns it."""
        tensors, metadata = load_tensors(folder / CHECKPOINT)
        saved = TrainConfig.model_validate(metadata["config"])
        if saved.model_copy(update={k: getattr(self.config, k) for k in CHANGEABLE}) != self.config:
            raise ConfigError(
                f"{folder} holds a run with another configuration ({saved!r}); "
                f"only {', '.join(CHANGEABLE)} may change: give the same configuration, or another folder."
            )
        with torch.no_grad():
            for name, value in stripped("weights", tensors).items():
                self.parameters[name].copy_(value)
            for name, value in stripped("ema", tensors).items():
                self.ema[name].copy_(value)
        unpack_optimizer(self.optimizer, "optimizer", tensors)
        self.step_index = metadata["step"]


def saved_config(folder: Path) -> tuple[TrainConfig, int]:
    """The configuration of a checkpoint and the number of steps it has seen."""
    _, metadata = load_tensors(folder / CHECKPOINT)
    return TrainConfig.model_validate(metadata["config"]), metadata["step"]


def _mean_pipeline(config: TrainConfig, tensors: dict[str, Tensor]) -> StableDiffusionPipeline:
    pipe = build_pipeline(config.architecture, config.seed, vocabulary_named(config.vocabulary))
    ema = stripped("ema", tensors)
    pipe.unet.load_state_dict(stripped("unet", ema))
    pipe.text_encoder.load_state_dict(stripped("text", ema), strict=False)
    return pipe


def export(folder: Path, destination: Path) -> dict[str, Any]:
    """Write the running mean of a checkpoint as a pipeline in fp16 safetensors.

    Returns:
        The training record, also written as `training.json` beside the weights.
    """
    tensors, metadata = load_tensors(folder / CHECKPOINT)
    config = TrainConfig.model_validate(metadata["config"])
    pipe = _mean_pipeline(config, tensors)
    pipe.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipe.save_pretrained(destination, safe_serialization=True, max_shard_size="15MB")
    record = {
        "config": config.model_dump(mode="json"),
        "images_seen": config.before + metadata["step"] * config.batch,
        "complete": metadata["step"] >= config.steps,
        "torch": torch.__version__,
    }
    (destination / TRAINING).write_text(json.dumps(record, indent=2) + "\n")
    # Figures measured on other weights are not these weights' figures.
    (destination / FIGURES).unlink(missing_ok=True)
    write_card(destination)
    return record


def train(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    *,
    warm: StableDiffusionPipeline | None = None,
    minutes: float | None = None,
    save_every: float = 120.0,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> bool:
    """Train until `config.images` are seen or `minutes` are over, saving to `folder` on the way.

    Args:
        warm: start from this pipeline's weights where `folder` holds no checkpoint yet.
        save_every: seconds between checkpoints.
        report: called every 20 steps with the step, the number of steps and the mean loss since the last call.

    Returns:
        Whether the run is complete.
    """
    trainer = Trainer(config, device, warm)
    if (folder / CHECKPOINT).exists():
        trainer.load(folder)
        log.info("resumed at step %d of %d", trainer.step_index, config.steps)
    start = saved = time.monotonic()
    losses: list[float] = []
    while trainer.step_index < config.steps:
        losses.append(trainer.step())
        if len(losses) == 20:
            report(trainer.step_index, config.steps, sum(losses) / len(losses))
            losses.clear()
        now = time.monotonic()
        if now - saved > save_every:
            trainer.save(folder)
            saved = now
        if minutes is not None and now - start > 60 * minutes:
            break
    trainer.save(folder)
    return trainer.step_index >= config.steps
