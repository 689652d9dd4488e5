"""Train one sparse autoencoder on a stream of activation rows, with exact resume.

Loss: FVU of the batch + alpha * AuxK (2406.04093 section 2 and appendix A.2; settings of SAeUron 2501.18052).
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.checkpoint import load_tensors, pack_optimizer, prefixed, save_tensors, stripped, unpack_optimizer
from saeuron.config import SAEConfig
from saeuron.errors import SaeuronError
from saeuron.sae import SAE, SAEInfo, batch_top_k, top_k

Stream = Callable[[int], Iterator[NDArray[Any]]]
"""stream(b): batches of rows [B, D], float16, from the b-th on; the b-th batch is always the same."""


class Point(NamedTuple):
    """One point of the training curve, means since the last one."""

    step: int
    rows: int
    fvu: float
    l0: float
    dead: float
    """Fraction of latents silent for `dead_rows` rows."""
    loss: float


def geometric_median(x: Tensor, iterations: int = 50) -> Tensor:
    """Weiszfeld's algorithm: [B, D] -> [D], the point of least summed distance to the rows."""
    centre = x.mean(0)
    for _ in range(iterations):
        weights = 1 / (x - centre).norm(dim=1).clamp(min=1e-6)
        centre = (weights[:, None] * x).sum(0) / weights.sum()
    return centre


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Fraction of variance unexplained of a batch: |x - x_hat|^2 / |x - mean x|^2, scalar."""
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum().clamp(min=1e-12)


def aux_k(x: Tensor, x_hat: Tensor, pre: Tensor, dead: Tensor, W_dec: Tensor) -> Tensor:
    """AuxK (2406.04093, A.2): dead latents predict the residual; scalar, without its weight alpha.

    e_hat = (the k_aux largest dead ReLU(p)) W_dec, without b_dec; the target e = x - x_hat is detached; scaled by
    min(1, #dead / k_aux) and divided by the variance of x.

    Args:
        x, x_hat: [B, D]. pre: p, [B, N]. dead: bool [N]. W_dec: (N, D).
    """
    count = int(dead.sum())
    if count == 0:
        return x.new_zeros(())
    wanted = max(1, x.shape[1] // 2)
    k = min(wanted, count)
    values, indices = pre.masked_fill(~dead, -torch.inf).topk(k, dim=1)
    latents = torch.zeros_like(pre).scatter(1, indices, values.relu())
    error = (x - x_hat).detach()
    scale = min(1.0, count / wanted)
    return scale * (error - latents @ W_dec).square().sum() / (x - x.mean(0)).square().sum().clamp(min=1e-12)


def learning_rate(config: SAEConfig, step: int) -> float:
    """Warm-up, then linear or cosine decay to zero at `config.steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    match config.schedule:
        case "linear":
            return config.lr * (1 - done)
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            return config.lr


class Trainer:
    """The state of one training run: SAE, Adam's moments, silence of each latent, and the number of steps."""

    def __init__(self, config: SAEConfig, width: int, hookpoint: str, device: str | torch.device = "cpu") -> None:
        self.config, self.device, self.step_index = config, torch.device(device), 0
        info = SAEInfo(config.variant, width, config.expansion * width, config.k, hookpoint)
        if config.k > info.n_latents:
            raise SaeuronError(f"train.k is {config.k}, more than the SAE's {info.n_latents} latents; lower it.")
        self.sae = SAE(info, config.seed).to(self.device)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=config.lr, eps=6.25e-10)
        self.silent = torch.zeros(info.n_latents, dtype=torch.int64, device=self.device)
        self.dead_rows = config.dead_rows or max(1, config.steps * config.batch // 10)
        self.history: list[Point] = []
        self._recent: list[tuple[float, float, float]] = []

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        """b_dec starts at the geometric median of a first sample, [B, D]."""
        self.sae.b_dec.copy_(geometric_median(rows.float().to(self.device)))

    def step(self, rows: Tensor) -> None:
        """One optimizer step on rows [B, D]."""
        sae, config = self.sae, self.config
        x = rows.to(self.device).float()
        pre = sae.pre_activations(x)
        latents = top_k(pre, config.k) if config.variant == "topk" else batch_top_k(pre, config.k)
        x_hat = sae.decode(latents)
        main = fvu(x, x_hat)
        dead = self.silent >= self.dead_rows
        loss = main + config.auxk_alpha * aux_k(x, x_hat, pre, dead, sae.W_dec)
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            self._project_gradient()
            torch.nn.utils.clip_grad_norm_(sae.parameters(), config.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, self.step_index)
            self.optimizer.step()
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
            fired = latents > 0
            self.silent = torch.where(fired.any(0), 0, self.silent + len(x))
            if config.variant == "batch_topk":
                self._update_threshold(latents)
            self._recent.append((main.item(), fired.sum().item() / len(x), loss.item()))
        self.step_index += 1
        if self.step_index % 20 == 0 or self.step_index == config.steps:
            f, l0, total = np.mean(self._recent, axis=0)
            share = float((self.silent >= self.dead_rows).float().mean())
            self.history.append(Point(self.step_index, self.step_index * config.batch, f, l0, share, total))
            self._recent.clear()

    def _project_gradient(self) -> None:
        """Remove the component of W_dec's gradient along each row: it would only change the norm, which is fixed."""
        W, g = self.sae.W_dec, self.sae.W_dec.grad
        assert g is not None
        g.sub_((g * W).sum(1, keepdim=True) * W)

    def _update_threshold(self, latents: Tensor) -> None:
        """Theta = running mean of the least kept positive activation (2412.06410, section 3)."""
        least = torch.where(latents > 0, latents, torch.inf).amin()
        if torch.isfinite(least):
            # A running mean over about 1 / rate steps that starts exact.
            rate = max(1 / (self.step_index + 1), 0.01)
            self.sae.threshold.lerp_(least, rate)

    def save(self, path: Path) -> None:
        """Everything needed to go on exactly."""
        tensors = prefixed("sae", self.sae.state_dict()) | pack_optimizer(self.optimizer, "adam")
        tensors |= {"silent": self.silent, "recent": torch.tensor(self._recent, dtype=torch.float64)}
        metadata = {"step": self.step_index, "config": self.config.model_dump(), "history": self.history}
        save_tensors(path, tensors, metadata)

    def load(self, path: Path) -> None:
        """Go on from `save`."""
        tensors, metadata = load_tensors(path)
        # How often a checkpoint is written is no part of what is trained.
        apart = {"checkpoint_every"}
        saved = {k: v for k, v in metadata["config"].items() if k not in apart}
        if saved != self.config.model_dump(exclude=apart):
            raise SaeuronError(f"{path} is a checkpoint of another configuration; remove it to start anew.")
        self.sae.load_state_dict(stripped("sae", tensors))
        unpack_optimizer(self.optimizer, "adam", tensors)
        self.silent = tensors["silent"].to(self.device)
        self._recent = [(a, b, c) for a, b, c in tensors["recent"].reshape(-1, 3).tolist()]
        self.step_index = metadata["step"]
        self.history = [Point(*p) for p in metadata["history"]]


def train(
    config: SAEConfig,
    stream: Stream,
    width: int,
    hookpoint: str,
    *,
    checkpoint: Path,
    device: str | torch.device = "cpu",
    report: Callable[[Point], None] = lambda point: None,
) -> Trainer:
    """Train to the end, from `checkpoint` if it exists; an interrupted run ends with the same bytes."""
    trainer = Trainer(config, width, hookpoint, device)
    if checkpoint.exists():
        trainer.load(checkpoint)
    else:
        first = torch.from_numpy(next(stream(0)))
        trainer.initialise(first)
    for rows in stream(trainer.step_index):
        if trainer.step_index >= config.steps:
            break
        before = len(trainer.history)
        trainer.step(torch.from_numpy(rows))
        if len(trainer.history) > before:
            report(trainer.history[-1])
        if trainer.step_index % config.checkpoint_every == 0:
            trainer.save(checkpoint)
    trainer.sae.requires_grad_(False)
    return trainer


class Quality(NamedTuple):
    """How well an SAE reconstructs, at inference, over a whole set."""

    fvu: float
    l0: float
    never: float
    """Fraction of latents that never fired on the set."""


@torch.no_grad()
def quality(sae: SAE, batches: Iterator[Tensor]) -> Quality:
    """FVU accumulated over the whole set, not averaged over batches; float64 sums."""
    rows, squares, active = 0, 0.0, 0.0
    error = 0.0
    total = torch.zeros(sae.info.width, dtype=torch.float64)
    fired = torch.zeros(sae.info.n_latents, dtype=torch.bool)
    for batch in batches:
        x = batch.float().to(sae.W_enc.device)
        latents = sae.encode(x)
        error += float((x - sae.decode(latents)).double().square().sum())
        squares += float(x.double().square().sum())
        total += x.double().sum(0).cpu()
        active += float((latents != 0).sum())
        fired |= (latents != 0).any(0).cpu()
        rows += len(x)
    variance = squares - float(total.square().sum()) / max(rows, 1)
    return Quality(error / max(variance, 1e-12), active / max(rows, 1), 1 - float(fired.float().mean()))
