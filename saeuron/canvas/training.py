"""Train canvas from nothing, with exact resume, or warm from the committed weights.

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

from saeuron.canvas.card import FIGURES, TRAINING, write_card
from saeuron.canvas.model import Architecture, build_pipeline
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES, UNSTYLED, sentences
from saeuron.checkpoint import load_tensors, pack_optimizer, prefixed, save_tensors, stripped, unpack_optimizer
from saeuron.errors import ConfigError

log = logging.getLogger(__name__)

CHECKPOINT = "state.safetensors"


class TrainConfig(BaseModel):
    """How canvas is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture = Architecture()
    """Sizes of the pipeline."""
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

    @property
    def steps(self) -> int:
        return self.images // self.batch

    def rate(self, step: int) -> float:
        """Learning rate at `step` as a fraction of its peak: warm-up, plateau, linear decay."""
        left = (self.steps - step) / max(1, round(self.decay * self.steps))
        return min(1.0, (step + 1) / self.warmup, max(left, 0.0))


class Prompts:
    """Token ids of every training sentence, so that a step costs no tokenizing.

    `tokens` is int64 [n_objects, n_style_classes, most sentences, length]; cells with fewer sentences repeat theirs.
    """

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        def encode(texts: list[str]) -> Tensor:
            length = pipe.tokenizer.model_max_length
            return pipe.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt").input_ids

        cells = [[sentences("train", o, None if s == UNSTYLED else s) for s in STYLE_CLASSES] for o in OBJECTS]
        most = max(len(cell) for row in cells for cell in row)
        self.tokens = torch.stack(
            [torch.stack([encode([cell[i % len(cell)] for i in range(most)]) for cell in row]) for row in cells]
        )
        self.empty = encode([""])[0]

    def sample(self, objects: Tensor, styles: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        """One random sentence per image, int64 [B, length], a `dropout` share of them empty."""
        n = len(objects)
        which = torch.randint(self.tokens.shape[2], (n,), generator=generator)
        tokens = self.tokens[objects, styles, which]
        dropped = torch.rand(n, generator=generator) < dropout
        return torch.where(dropped[:, None], self.empty, tokens)


class Trainer:
    """The state of one training run on one device."""

    def __init__(self, config: TrainConfig, device: torch.device, warm: StableDiffusionPipeline | None = None) -> None:
        self.config, self.device, self.step_index = config, device, 0
        self.pipe = warm or build_pipeline(config.architecture, config.seed)
        self.pipe.to(device=device, dtype=torch.float32)
        # At these sizes the plain processor is faster than scaled_dot_product_attention on CPU.
        self.pipe.unet.set_attn_processor(AttnProcessor())
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.pipe.unet.train()
        self.pipe.text_encoder.train()
        self.prompts = Prompts(self.pipe)
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
        objects = torch.randint(len(OBJECTS), (config.batch,), generator=generator)
        styles = torch.randint(len(STYLE_CLASSES), (config.batch,), generator=generator)
        images = render(objects, styles, generator).to(self.device)
        tokens = self.prompts.sample(objects, styles, config.dropout, generator).to(self.device)
        clean = F.pixel_unshuffle(images, config.architecture.patch)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        # Stratified over the batch: the same distribution as uniform, with less variance.
        offsets = torch.rand(config.batch, generator=generator)
        times = ((torch.arange(config.batch) + offsets) / config.batch * len(self.signal)).long().to(self.device)
        signal, sigma = (c[times].view(-1, 1, 1, 1) for c in (self.signal, self.sigma))
        noisy = signal * clean + sigma * noise
        velocity = signal * noise - sigma * clean

        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * config.rate(self.step_index)
        context = self.pipe.text_encoder(tokens)[0]
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(self.pipe.unet(noisy, times, context).sample, velocity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_index += 1
        decay = min(config.ema, self.step_index / (self.step_index + 10))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return loss.item()

    def save(self, folder: Path) -> None:
        """Everything needed to go on exactly, in one file."""
        tensors = prefixed("weights", self.parameters) | prefixed("ema", self.ema)
        tensors |= pack_optimizer(self.optimizer, "optimizer")
        save_tensors(folder / CHECKPOINT, tensors, {"step": self.step_index, "config": self.config.model_dump()})

    def load(self, folder: Path) -> None:
        """Go on from `save`. Only `images` may differ: it is how a run is made longer."""
        tensors, metadata = load_tensors(folder / CHECKPOINT)
        saved = TrainConfig.model_validate(metadata["config"])
        if saved.model_copy(update={"images": self.config.images}) != self.config:
            raise ConfigError(
                f"{folder} holds a run with another configuration ({saved!r}); only `images` may change: "
                "give the same configuration, or another folder."
            )
        with torch.no_grad():
            for name, value in stripped("weights", tensors).items():
                self.parameters[name].copy_(value)
            for name, value in stripped("ema", tensors).items():
                self.ema[name].copy_(value)
        unpack_optimizer(self.optimizer, "optimizer", tensors)
        self.step_index = metadata["step"]


def export(folder: Path, destination: Path) -> dict[str, Any]:
    """Write the running mean of a checkpoint as a pipeline in fp16 safetensors.

    Returns:
        The training record, also written as `training.json` beside the weights.
    """
    tensors, metadata = load_tensors(folder / CHECKPOINT)
    config = TrainConfig.model_validate(metadata["config"])
    pipe = build_pipeline(config.architecture, config.seed)
    ema = stripped("ema", tensors)
    pipe.unet.load_state_dict(stripped("unet", ema))
    pipe.text_encoder.load_state_dict(stripped("text", ema), strict=False)
    pipe.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipe.save_pretrained(destination, safe_serialization=True, max_shard_size="15MB")
    record = {
        "config": config.model_dump(mode="json"),
        "images_seen": metadata["step"] * config.batch,
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
